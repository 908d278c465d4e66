"""What a model is tried on when something was taken from it: calibration items and its loss.

Text: cross-entropy of the next token on held-out items. Pictures: the corpus has no classes, so the
loss is KL(clean || changed) of the class probabilities, in nats per held-out picture; it is 0 for
the model as it was. Both are kept as sums of documents (pictures), so that these can be resampled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bathyscope.errors import ConfigError, ModelError, NonFiniteError
from bathyscope.models.capture import Inputs, run_forward
from bathyscope.models.families import family_of
from bathyscope.stages.batches import ImageBatches
from bathyscope.stages.studies.opened import ITEMS, OpenedMember, logits_of, losses_of
from bathyscope.values import HELD_OUT, TRAIN, Unit

CE, KL = "ce", "kl"


class Losses(NamedTuple):
    """Sums of each document, in rising order of its number."""

    counts: NDArray[np.float64]
    """Tokens or pictures [documents], at least 1."""
    sums: NDArray[np.float64]
    """Nats [documents]."""

    def mean(self) -> float:
        """Nats per token or picture."""
        return float(self.sums.sum() / self.counts.sum())


class TextTrial:
    """A language model on the shared text."""

    measure = CE

    def __init__(self, opened: OpenedMember) -> None:
        study = opened.config.study
        length = opened.corpus.sequence_length
        train = list(opened.batches(TRAIN, study.calibration_items * length))
        device = opened.device
        self.calibration: list[Inputs] = [{"input_ids": b.tokens.to(device)} for b in train]
        self.counted: list[tuple[Inputs, Tensor | None]] = [
            (inputs, batch.keep) for inputs, batch in zip(self.calibration, train, strict=True)
        ]
        self.heads: Collection[str] = ()
        self.bits_per_nat: float | None = opened.bits_per_nat(study.splice_tokens)
        self._held_out = list(opened.batches(HELD_OUT, study.splice_tokens))
        self._logits = logits_of(opened.model.model, device)

    def losses(self) -> Losses:
        """Cross-entropy of the model as it is now. Raises `NonFiniteError`."""
        found = losses_of(iter(self._held_out), self._logits)
        return Losses(found.num_tokens.astype(np.float64), found.ce_sums)


class PictureTrial:
    """A classifier on the pictures of the corpus; it is taken to be clean when this is made."""

    measure = KL

    def __init__(self, opened: OpenedMember) -> None:
        self._opened = opened
        self._model = opened.model.model
        there = opened.corpus.split_range(TRAIN)
        stop = min(there.stop, there.start + opened.config.study.calibration_items)
        self.calibration: list[Inputs] = list(self._batches(there.start, stop))
        self.counted: list[tuple[Inputs, Tensor | None]] = []
        self.bits_per_nat: float | None = None
        held_out = opened.corpus.split_range(HELD_OUT)
        self._range = (held_out.start, held_out.stop)
        documents = opened.corpus.documents(*self._range)[:, 0]
        self._owners = np.unique(documents, return_inverse=True)[1]
        self._clean = list(self._log_probabilities())
        self.heads: Collection[str] = _heads(self._model, self._clean[0].shape[-1])

    def losses(self) -> Losses:
        """KL from the clean model of the model as it is now. Raises `NonFiniteError`."""
        found = [
            _divergence(clean, changed)
            for clean, changed in zip(self._clean, self._log_probabilities(), strict=True)
        ]
        sums = np.bincount(self._owners, weights=torch.cat(found).numpy())
        counts = np.bincount(self._owners).astype(np.float64)
        return Losses(counts, sums.astype(np.float64))

    @torch.no_grad()
    def _log_probabilities(self) -> Iterator[Tensor]:
        """[pictures, classes] of each batch, float64 on the CPU."""
        for inputs in self._batches(*self._range):
            logits = getattr(found := run_forward(self._model, inputs), "logits", found)
            if not isinstance(logits, Tensor) or logits.dim() != 2:
                raise ModelError(
                    f"{type(self._model).__name__} gives {_shape(logits)} for a batch of pictures. "
                    "Wanted logits [pictures, classes]: only classifiers have a loss here."
                )
            if not bool(torch.isfinite(logits).all()):
                raise NonFiniteError("The logits of held-out pictures hold NaN or infinity.")
            yield torch.log_softmax(logits.double(), dim=-1).cpu()

    def _batches(self, start: int, stop: int) -> Iterator[Inputs]:
        """Pixels of some pictures as the model takes them, without the padding of the last."""
        config, loaded = self._opened.config, self._opened.model
        batches = ImageBatches(
            self._opened.corpus,
            ITEMS,
            loaded.input_device,
            dtype=loaded.dtype,
            mean=config.model.image_mean,
            deviation=config.model.image_std,
        )
        for number, pixels in enumerate(batches.of(Unit(0, start, stop))):
            kept = pixels[: stop - start - number * ITEMS]
            yield kept if loaded.config is None else {"pixel_values": kept}


Trial = TextTrial | PictureTrial


def trial_of(opened: OpenedMember) -> Trial:
    """What a member is tried on. Raises `ConfigError` for a corpus without held-out items."""
    held_out = opened.corpus.split_range(HELD_OUT)
    if held_out.stop == held_out.start:
        raise ConfigError("The corpus has no held-out items, so no loss can be measured on it.")
    return PictureTrial(opened) if opened.corpus.has_images else TextTrial(opened)


def _divergence(clean: Tensor, changed: Tensor) -> Tensor:
    """KL(clean || changed) of log-probabilities [n, classes], in nats [n]."""
    p = clean.exp()
    # A class with probability 0 adds 0, though 0 · (-inf - -inf) is NaN.
    return torch.where(p > 0, p * (clean - changed), 0.0).sum(dim=-1)


def _heads(model: nn.Module, classes: int) -> list[str]:
    """The last linear layer of a classifier, where it gives the classes."""
    if family_of(getattr(model, "config", None)) is not None:
        return []
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    return [name for name, module in linear[-1:] if module.out_features == classes]


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
