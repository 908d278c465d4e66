"""The figures of one model of a ladder, once it is trained."""

from __future__ import annotations

import math

from torch import Tensor, nn

from bathyscope.runs.corpus import Corpus
from bathyscope.stages.ladder_models import LadderModel
from bathyscope.training.language import LanguageState, losses
from bathyscope.values import HELD_OUT, TRAIN, Json

_ITEMS = 256
"""Sequences that are read at once."""


def described(model: LadderModel, state: LanguageState, tokens_per_step: int) -> Json:
    """What the model is, and how long it was trained."""
    tokens = state.step * tokens_per_step
    return {
        "name": model.name,
        "family": model.family,
        "parameters": model.parameters,
        "embedding_parameters": model.embedding_parameters,
        "width": model.rung.width,
        "layers": model.rung.layers,
        "heads": model.rung.heads,
        "seed": model.seed,
        "steps": state.step,
        "tokens": tokens,
        "tokens_per_parameter": tokens / model.parameters,
        "best_tokens": state.best_step * tokens_per_step,
        "stopped_early": state.stopped,
    }


def measured(network: nn.Module, corpus: Corpus, bytes_of: Tensor, *, bfloat16: bool) -> Json:
    """Losses of a network on all held-out sequences, and on as many of training.

    `bytes_of` are the bytes of text of each token [vocabulary].
    """
    held_out, train = corpus.split_range(HELD_OUT), corpus.split_range(TRAIN)
    sums = _Sums(network, corpus, bytes_of, bfloat16)
    nats, targets, num_bytes = sums.over(held_out.start, held_out.stop)
    stop = min(train.start + held_out.stop - held_out.start, train.stop)
    train_nats, train_targets, _ = sums.over(train.start, stop)
    loss, train_loss = nats / targets, train_nats / train_targets
    return {
        "train_loss": train_loss,
        "held_out_loss": loss,
        "gap": loss - train_loss,
        "bits_per_byte": nats / math.log(2) / num_bytes,
        "held_out_targets": targets,
    }


class _Sums:
    """Adds up losses over items of a corpus."""

    def __init__(
        self, network: nn.Module, corpus: Corpus, bytes_of: Tensor, bfloat16: bool
    ) -> None:
        self._network = network
        self._corpus = corpus
        self._bytes_of = bytes_of
        self._bfloat16 = bfloat16
        self._device = next(network.parameters()).device

    def over(self, start: int, stop: int) -> tuple[float, int, int]:
        """Nats, targets, and bytes of text of the targets."""
        nats, targets, num_bytes = 0.0, 0, 0
        for first in range(start, stop, _ITEMS):
            tokens = self._corpus.tokens(first, min(first + _ITEMS, stop))
            found = losses(self._network, tokens.to(self._device), bfloat16=self._bfloat16)
            nats += float(found.double().sum())
            targets += found.numel()
            num_bytes += int(self._bytes_of[tokens[:, 1:]].sum())
        return nats, targets, num_bytes
