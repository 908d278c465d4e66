"""A fine-tuning from its first step to its last, and what it changed on held-out documents."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch

from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.evaluation.splice import Forward, add_batch
from bathyscope.metrics.reconstruction import Reconstruction
from bathyscope.metrics.splice import CLEAN, TokenLosses, delta_ce
from bathyscope.runs.activations import Rows
from bathyscope.stages.checkpoints import Checkpoints, Found
from bathyscope.stages.hook_columns import HookColumns, batches_of
from bathyscope.stages.sequence_batches import drawn, sequences
from bathyscope.stages.stage import Guard
from bathyscope.stages.trained import Trained, wants_k
from bathyscope.stores.objects import Objects
from bathyscope.training.fine_tune import FineTuned, FineTuning, Sequences
from bathyscope.training.loop import Point, Scaled
from bathyscope.training.schedule import make_schedule
from bathyscope.training.shard import split_tensors
from bathyscope.training.step import Step, StepSettings
from bathyscope.values import HELD_OUT, TRAIN, Json

_WARMUP_SHARE = 0.1
_CHECK_EVERY = 10
_SHARE = 0.9
"""Of the unit, how much is training; the rest is measuring."""


@dataclass
class Context:
    """The dictionary before, the model, and where the dictionary after goes."""

    config: Config
    columns: HookColumns
    before: AnyDictionary
    sparsity: float
    """The sparsity term of the last batches that it was trained on."""
    forward: Forward
    device: torch.device
    objects: Objects
    segment: str

    @property
    def rows(self) -> Rows:
        """The rows of its hook point."""
        return self.columns.inputs[0]


class Tuned(NamedTuple):
    """What a fine-tuning gave."""

    trained: Trained
    """In the scale of the training."""
    model_losses: list[float]
    """The loss of the spliced model at each point of the curve, nats per position."""
    steps: int
    tokens: int
    """Rows that were reconstructed, over all steps."""


def tune(context: Context, guard: Guard) -> Tuned:
    """Fine-tune a copy of the dictionary, from its last checkpoint if it has one.

    Raises `NonFiniteError` for a loss that is not finite.
    """
    config, steps = context.config, _Steps(context)
    every = config.train.checkpoint_steps
    split = split_tensors(steps.dictionary)
    with Checkpoints(context.objects, context.segment, split) as checkpoints:
        found = checkpoints.latest()
        checkpoints.clear()
        if found is not None:
            steps.load(found)
        for number, items in steps.items(found.step if found else 0):
            figures = steps.do(number, sequences(context.rows, items, context.device))
            done = number + 1
            guard.progress(_SHARE * done / steps.num, _told(config.fine_tune.loss, figures))
            is_due = every > 0 and done % every == 0 and done < steps.num
            if is_due or done % _CHECK_EVERY == 0:
                guard.check()
            if is_due:
                checkpoints.write(done, steps.step.state(), steps.facts())
    return steps.finished()


class _Steps:
    """The steps of one fine-tuning, before the first or after the last of them."""

    def __init__(self, context: Context) -> None:
        config, settings = context.config, context.config.fine_tune
        self._settings, self._rows = settings, context.rows
        self._sparsity = context.sparsity
        self._log_every = config.train.log_every
        self._wants_k = wants_k(config, context.before)
        self._batches = batches_of(config, context.columns)
        scales, _ = context.columns.scales_and_mean()
        self._scaled = Scaled(context.before, scales)
        self.dictionary = copy.deepcopy(context.before).requires_grad_(True)
        # Back to the scale of training, in which its rates and weights are set.
        inverse = (1 / t.to(context.device) for t in (self._scaled.inputs, self._scaled.outputs))
        self.dictionary.fold_scales(*inverse)
        self.step = Step(
            self.dictionary, _step_settings(config, self._batches.num_rows), lr=settings.lr
        )
        self._tuning = FineTuning(
            self.step,
            context.forward,
            loss=settings.loss,
            scale=float(scales[0]),
            forward_items=config.evaluate.batch_items,
        )
        self.num = max(1, round(settings.tokens / settings.batch_items / context.rows.per_item))
        self._schedule = make_schedule(
            lr=settings.lr, num_steps=self.num, warmup_share=_WARMUP_SHARE, decay_share=1.0
        )
        self._progress = _Progress(curve=[], model_losses=[], tokens=0)

    def items(self, first: int) -> Iterator[tuple[int, list[int]]]:
        """The numbers of the steps from the first on, with the training items of each."""
        settings, items = self._settings, self._rows.corpus.split_range(TRAIN)
        order = drawn(range(items.start, items.stop), settings.seed)
        for number in range(self.num):
            chosen = list(islice(order, settings.batch_items))
            if number >= first:
                yield number, chosen

    def load(self, found: Found) -> None:
        """Go on from a checkpoint."""
        self.step.load(found.state)
        self._tuning.model_weight = float(found.facts["model_weight"])
        self._progress = _Progress.from_json(found.facts)

    def facts(self) -> Json:
        """What a checkpoint needs beside the state of the step."""
        return {"model_weight": self._tuning.model_weight, **self._progress.to_json()}

    def do(self, number: int, batch: Sequences) -> FineTuned:
        """Do one step, and note it in the curve when it is due."""
        if number == 0:
            self._tuning.start(batch, self._sparsity)
        self.step.set_lr(self._schedule.at(number))
        figures = self._tuning.step(batch)
        progress = self._progress
        progress.tokens += int(batch.keep.sum())
        if number % self._log_every == 0 or number + 1 == self.num:
            progress.curve.append(Point(number + 1, progress.tokens, figures.step))
            progress.model_losses.append(figures.model_loss)
        return figures

    def finished(self) -> Tuned:
        """What all steps gave."""
        self.dictionary.requires_grad_(False)
        trained = Trained(
            self.dictionary,
            self._progress.curve,
            self._scaled,
            self._batches,
            wants_k=self._wants_k,
        )
        return Tuned(trained, self._progress.model_losses, self.num, self._progress.tokens)


@torch.no_grad()
def compared(
    context: Context, dictionaries: Mapping[str, AnyDictionary], guard: Guard
) -> dict[str, Json]:
    """ΔCE and KL (nats), FVU and L0 of each on the same `evaluate.splice_tokens` held-out ones."""
    rows, corpus, losses = context.rows, context.rows.corpus, TokenLosses()
    sums = {name: Reconstruction(rows.width) for name in dictionaries}
    items = _held_out(context)
    for start in items[:: context.config.evaluate.batch_items]:
        guard.check()
        stop = min(start + context.config.evaluate.batch_items, items.stop)
        batch = sequences(rows, range(start, stop), context.device)
        documents = torch.from_numpy(corpus.documents(start, stop).astype("int64"))
        add_batch(
            losses,
            context.forward,
            **batch._asdict(),
            documents=documents.to(context.device),
            variants=dictionaries,
        )
        x = batch.activations[batch.keep].float()
        for name, dictionary in dictionaries.items():
            latents, x_hat = dictionary.reconstruct(x)
            sums[name].update(x, x_hat, num_active=latents.count)
        guard.progress(_SHARE + (1 - _SHARE) * (stop - items.start) / len(items), "held out")
    found = losses.results()
    return {
        name: {
            "targets": int(found[CLEAN].num_tokens.sum()),
            "delta_ce": delta_ce(found[CLEAN], found[name]),
            "kl": found[name].mean_kl(),
            "fvu": sums[name].results()["fvu"],
            "l0": sums[name].results()["l0"],
        }
        for name in dictionaries
    }


def _held_out(context: Context) -> range:
    """The held-out items that are measured; all where `evaluate.splice_tokens` is 0."""
    corpus = context.rows.corpus
    items = corpus.split_range(HELD_OUT)
    # Position 0 is left out and the last position has no target, so an item has P - 2 of them.
    wanted = -(-context.config.evaluate.splice_tokens // (corpus.sequence_length - 2))
    return range(items.start, min(items.start + wanted, items.stop) if wanted else items.stop)


@dataclass
class _Progress:
    """What is known of the steps so far."""

    curve: list[Point]
    model_losses: list[float]
    tokens: int

    def to_json(self) -> Json:
        points = [point.to_json() for point in self.curve]
        # A copy: checkpoints are written while the steps go on.
        return {"curve": points, "model_losses": [*self.model_losses], "tokens": self.tokens}

    @classmethod
    def from_json(cls, facts: Json) -> _Progress:
        curve = [Point.from_json(point) for point in facts["curve"]]
        return cls(curve, list(facts["model_losses"]), int(facts["tokens"]))


def _step_settings(config: Config, num_rows: int) -> StepSettings:
    """Those of training, without AuxK: dead latents stay dead."""
    return StepSettings(
        auxk_weight=0.0,
        dead_after_tokens=int(config.train.dead_after_epochs * num_rows),
        decoder_norm=config.train.decoder_norm,
        l0_weight=config.train.l0_weight,
        l1_weight=config.train.l1_weight,
        clip_norm=config.train.clip_norm,
        reconstruction_weight=config.fine_tune.reconstruction_share,
    )


def _told(loss: str, figures: FineTuned) -> str:
    step = figures.step
    return f"{loss.upper()} {figures.model_loss:.4f}  FVU {step.fvu:.3f}  L0 {step.l0:.1f}"
