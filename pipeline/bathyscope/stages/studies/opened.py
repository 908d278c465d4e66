"""A member's run as a study reads it: its model, its rows, and losses on the same held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bathyscope.config import Config
from bathyscope.metrics.splice import CLEAN, DocumentLosses, TokenLosses, next_tokens
from bathyscope.models.bpe import token_bytes
from bathyscope.models.load import LoadedModel
from bathyscope.models.tokenizers import load_tokenizer
from bathyscope.runs.activations import Rows
from bathyscope.runs.corpus import Corpus
from bathyscope.runs.run import Run
from bathyscope.stages.inputs import model_folder
from bathyscope.stages.masks import kept
from bathyscope.stages.model import load_whole
from bathyscope.values import HELD_OUT, TRAIN

ITEMS = 16
"""Sequences of a forward."""
Logits = Callable[[Tensor], Tensor]


class Batch(NamedTuple):
    """Sequences as losses need them."""

    tokens: Tensor
    """[b, P]"""
    keep: Tensor
    """Positions that count [b, P]."""
    documents: Tensor
    """Number of each token's document [b, P]."""
    first_item: int


class OpenedMember:
    """One member of a family; what is read of it is kept."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.run = Run(config.url)

    @property
    def corpus(self) -> Corpus:
        """The items that all members share."""
        return self.run.corpus

    @property
    def rows(self) -> Rows:
        """Its activations."""
        return self.run.activations[self.config.hook]

    @cached_property
    def model(self) -> LoadedModel:
        """The whole model."""
        return load_whole(self.config)

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""
        return self.model.input_device

    def batches(self, split: str, tokens: int) -> Iterator[Batch]:
        """The first items of a split, so many tokens at most, and at least one item."""
        there = self.corpus.split_range(split)
        stop = min(there.stop, there.start + max(tokens // self.corpus.sequence_length, 1))
        for start in range(there.start, stop, ITEMS):
            yield self.batch(start, min(start + ITEMS, stop))

    def batch(self, start: int, stop: int) -> Batch:
        """Items start..stop."""
        corpus = self.corpus
        return Batch(
            corpus.tokens(start, stop),
            torch.from_numpy(kept(corpus.masks(start, stop))),
            torch.from_numpy(corpus.documents(start, stop).astype("int64")),
            start,
        )

    def held_out_rows(self, tokens: int) -> Tensor:
        """Rows of held-out positions that count [n, d], in float32."""
        return self._rows(HELD_OUT, tokens)

    def train_rows(self, tokens: int) -> Tensor:
        """The same of training positions."""
        return self._rows(TRAIN, tokens)

    def _rows(self, split: str, tokens: int) -> Tensor:
        parts = [
            self.rows.items(b.first_item, b.first_item + len(b.tokens))[b.keep].float()
            for b in self.batches(split, tokens)
        ]
        return torch.cat(parts)

    @cached_property
    def bytes_of(self) -> Tensor:
        """Bytes of text of each token [vocabulary]."""
        return torch.tensor(token_bytes(load_tokenizer(str(model_folder(self.config)))))

    def bits_per_nat(self, tokens: int) -> float:
        """By what a loss in nats per token becomes bits per byte of the same held-out text."""
        targets, num_bytes = 0, 0
        for batch in self.batches(HELD_OUT, tokens):
            following, counted = next_tokens(batch.tokens, batch.keep)
            targets += int(counted.sum())
            num_bytes += int(self.bytes_of[following[counted]].sum())
        return targets / (math.log(2) * num_bytes)


def logits_of(model: nn.Module, device: torch.device) -> Logits:
    """How a whole model turns tokens into logits."""

    def logits(tokens: Tensor) -> Tensor:
        found: Tensor = model(input_ids=tokens.to(device), use_cache=False).logits
        return found

    return logits


def held_out_losses(opened: OpenedMember, loaded: LoadedModel) -> DocumentLosses:
    """Cross-entropy of some weights of a member on the held-out text that all losses are of."""
    batches = opened.batches(HELD_OUT, opened.config.study.splice_tokens)
    return losses_of(batches, logits_of(loaded.model, loaded.input_device))


@torch.no_grad()
def losses_of(batches: Iterator[Batch], logits: Logits) -> DocumentLosses:
    """Cross-entropy sums of each document; KL is not asked for and comes out as 0."""
    losses = TokenLosses()
    for batch in batches:
        found = logits(batch.tokens)
        targets, counted = next_tokens(batch.tokens, batch.keep)
        losses.update(
            CLEAN,
            logits=found,
            clean_logits=found,
            targets=targets.to(found.device),
            keep=counted.to(found.device),
            documents=batch.documents.to(found.device),
        )
    return losses.results()[CLEAN]
