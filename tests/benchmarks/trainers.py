"""Trainers of several projects behind one face: rows come in, an inference-mode coder comes out.

Ours, SAELens' own trainer, and sparsify's step as its trainer does it. All get the same rows in the
same order. SAELens normalises them itself, as is recommended; sparsify starts b_dec at the mean.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.training.calibration import calibrate
from bathyscope.training.initial import initialise
from bathyscope.training.schedule import make_schedule
from bathyscope.training.step import Step, StepSettings

WARMUP, DECAY = 0.05, 0.3
AUXK_WEIGHT = 1 / 32


class Coded(NamedTuple):
    """What a coder makes of rows."""

    x_hat: Tensor
    latents: Tensor
    """[rows, latents] activations, dense: for small sizes."""


class Trainer(Protocol):
    """One dictionary in training."""

    def train(self, batches: Sequence[Tensor]) -> None:
        """Train on each batch [rows, d] once, then do what ends a training."""
        ...

    def code(self, x: Tensor) -> Coded:
        """Encode and decode rows as in use."""
        ...

    def decoder(self) -> Tensor:
        """Decoder rows [latents, d]."""
        ...


class Size(NamedTuple):
    """What is trained, and how fast."""

    d: int
    latents: int
    k: int
    lr: float
    seed: int
    dead_after: int = 10**9
    """Rows after which a silent latent counts as dead."""


class Ours:
    """A dictionary of this project."""

    def __init__(self, activation: str, size: Size, *, prefixes: tuple[int, ...] = ()) -> None:
        columns = columns_of([("x", size.d)])
        self._size = size
        made = make_dictionary(
            "autoencoder", columns, columns, activation=activation, k=size.k,
            num_latents=size.latents, prefixes=prefixes,
        )  # fmt: skip
        assert isinstance(made, Dictionary)
        self.dictionary = made

    def train(self, batches: Sequence[Tensor]) -> None:
        size = self._size
        first = batches[0]
        mean = torch.stack([batch.mean(0) for batch in batches]).mean(0)
        initialise(self.dictionary, x=first, y=first, mean=mean, seed=size.seed)
        settings = StepSettings(auxk_weight=AUXK_WEIGHT, dead_after_tokens=size.dead_after)
        step = Step(self.dictionary, settings, lr=size.lr)
        schedule = make_schedule(
            lr=size.lr, num_steps=len(batches), warmup_share=WARMUP, decay_share=DECAY
        )
        for number, batch in enumerate(batches):
            step.set_lr(schedule.at(number))
            step.step(batch)
        calibrate(self.dictionary, reversed(batches))

    @torch.no_grad()
    def code(self, x: Tensor) -> Coded:
        latents, x_hat = self.dictionary.reconstruct(x)
        dense = torch.zeros(len(x), self._size.latents)
        return Coded(x_hat, dense.scatter_add(1, latents.indices.long(), latents.values))

    def decoder(self) -> Tensor:
        return self.dictionary.W_dec.detach()


class SaeLens:
    """SAELens' trainer and training classes. BatchTopK gets the threshold that gives its L0.

    Its own threshold is a running mean that needs thousands of steps to arrive.
    """

    def __init__(self, kind: str, size: Size) -> None:
        from sae_lens import (
            BatchTopKTrainingSAE,
            BatchTopKTrainingSAEConfig,
            TopKTrainingSAE,
            TopKTrainingSAEConfig,
        )

        classes: dict[str, tuple[Any, Any]] = {
            "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
            "batch_topk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
        }
        torch.manual_seed(size.seed)
        made, config = classes[kind]
        self._kind, self._size = kind, size
        self.sae = made(
            config(
                d_in=size.d, d_sae=size.latents, k=size.k, dtype="float32", device="cpu",
                normalize_activations="expected_average_only_in",
            )
        )  # fmt: skip
        self._threshold = 0.0

    def train(self, batches: Sequence[Tensor]) -> None:
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        size, steps, rows = self._size, len(batches), len(batches[0])
        config = SAETrainerConfig(
            total_training_samples=steps * rows,
            train_batch_size_samples=rows,
            lr=size.lr,
            lr_end=size.lr / 100,
            lr_warm_up_steps=round(WARMUP * steps),
            lr_decay_steps=round(DECAY * steps),
            dead_feature_window=max(size.dead_after // rows, 1),
            logger=LoggingConfig(log_to_wandb=False),
            # All of the rows, which are then trained on from the first one.
            n_batches_for_norm_estimate=steps,
        )
        trainer = SAETrainer(config, self.sae, iter([*batches, *batches]))
        self.sae = trainer.fit()
        if self._kind == "batch_topk":
            values = torch.cat(
                [self._pre(batch).topk(4 * size.k).values for batch in batches[-16:]]
            )
            self._threshold = float(values.flatten().topk(size.k * len(values) + 1).values[-1])

    @torch.no_grad()
    def _pre(self, x: Tensor) -> Tensor:
        sae = self.sae
        pre = torch.relu(sae.process_sae_in(x) @ sae.W_enc + sae.b_enc)
        return pre * sae.W_dec.norm(dim=-1)

    @torch.no_grad()
    def code(self, x: Tensor) -> Coded:
        self.sae.eval()
        if self._kind == "batch_topk":
            pre = self._pre(x)
            latents = pre * (pre > self._threshold)
        else:
            latents = self.sae.encode(x)
        return Coded(self.sae.decode(latents), latents)

    def decoder(self) -> Tensor:
        W = self.sae.W_dec.detach()
        return W / W.norm(dim=-1, keepdim=True)


class Sparsify:
    """sparsify's SparseCoder, stepped as its trainer does, with adam or its default, signum."""

    def __init__(self, size: Size, *, optimizer: str = "adam") -> None:
        os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
        from sparsify import SparseCoder, SparseCoderConfig

        torch.manual_seed(size.seed)
        self._size, self._optimizer = size, optimizer
        config = SparseCoderConfig(num_latents=size.latents, k=size.k)
        self.coder = SparseCoder(size.d, config, dtype=torch.float32)

    def train(self, batches: Sequence[Tensor]) -> None:
        from transformers import get_linear_schedule_with_warmup

        coder, size, steps = self.coder, self._size, len(batches)
        scheduler = None
        if self._optimizer == "adam":
            optimizer: Any = torch.optim.Adam(coder.parameters(), lr=size.lr)
            scheduler = get_linear_schedule_with_warmup(optimizer, round(WARMUP * steps), steps)
        else:
            from schedulefree import ScheduleFreeWrapper
            from sparsify.sign_sgd import SignSGD

            optimizer = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=size.lr), momentum=0.95)
            optimizer.train()
        silent = torch.zeros(size.latents, dtype=torch.long)
        for number, x in enumerate(batches):
            if number == 0:
                coder.b_dec.data = x.mean(0)
            coder.set_decoder_norm_to_unit_norm()
            out = coder(x, dead_mask=silent > size.dead_after)
            (out.fvu + AUXK_WEIGHT * out.auxk_loss).backward()
            coder.remove_gradient_parallel_to_decoder_directions()
            optimizer.step()
            optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
            silent += len(x)
            silent[out.latent_indices.flatten().unique()] = 0
        if scheduler is None:
            optimizer.eval()
        coder.set_decoder_norm_to_unit_norm()

    @torch.no_grad()
    def code(self, x: Tensor) -> Coded:
        values, indices, _ = self.coder.encode(x)
        dense = torch.zeros(len(x), self._size.latents)
        return Coded(self.coder.decode(values, indices), dense.scatter_add(1, indices, values))

    def decoder(self) -> Tensor:
        return self.coder.W_dec.detach()
