"""What gives a member's rows back: dictionaries and controls of their size, put in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.evaluation.controls import Reconstruct, fit_components, random_dictionary
from bathyscope.evaluation.splice import add_batch
from bathyscope.metrics.splice import DocumentLosses, TokenLosses
from bathyscope.stages.masks import kept
from bathyscope.stages.spliced import forward_of
from bathyscope.stages.studies.member_runs import Size
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.study import Tell
from bathyscope.values import HELD_OUT, TRAIN

BLOCK = 4096
"""Rows that are encoded at once."""
CONTROL_ROWS = 65_536
"""Training rows that controls are fitted to."""
DICTIONARY, PCA, NEURONS, RANDOM = "dictionary", "pca", "neurons", "random"


@dataclass(frozen=True)
class Coder:
    """Something that gives rows back: a dictionary, or a control of its size."""

    kind: str
    size: Size
    reconstruct: Reconstruct
    dictionary: AnyDictionary | None = None

    @property
    def name(self) -> str:
        """What its losses are called."""
        return f"{self.kind} {self.size.name}"


def coders_of(opened: OpenedMember, sizes: Sequence[Size]) -> Iterator[Coder]:
    """Every dictionary, then the controls, which need no training: one of each size or L0."""
    for size in sizes:
        dictionary = opened.run.dictionaries[size.name]
        yield Coder(DICTIONARY, size, dictionary, dictionary)
    config, rows = opened.config, opened.train_rows(CONTROL_ROWS)
    mean = mean_row(opened)
    blocks = rows.split(BLOCK)
    for k in sorted({size.k for size in sizes}):
        some = Size(0, k, 0)
        components = fit_components(blocks, width=rows.shape[1], num=k)
        yield Coder(PCA, some, components.reconstruct)
        yield Coder(NEURONS, some, _largest_coordinates(mean, k))
    for latents, k in sorted({(size.num_latents, size.k) for size in sizes}):
        control = random_dictionary(
            blocks[:4], mean=mean, num_latents=latents, k=k, seed=config.study.seed
        )
        yield Coder(RANDOM, Size(latents, k, 0), control.reconstruct)


def mean_row(opened: OpenedMember) -> Tensor:
    """The mean over all training rows that count [d], float32."""
    return torch.from_numpy(opened.rows.moments(TRAIN, kept).mean).float()


def spliced_losses(
    opened: OpenedMember, variants: Mapping[str, Reconstruct], tell: Tell
) -> dict[str, DocumentLosses]:
    """Losses by document of the model, clean and with each variant of its rows in place."""
    forward, device = forward_of(opened.config)
    tokens = opened.config.study.splice_tokens
    batches, losses = list(opened.batches(HELD_OUT, tokens)), TokenLosses()
    for number, batch in enumerate(batches):
        stop = batch.first_item + len(batch.tokens)
        add_batch(
            losses,
            forward,
            tokens=batch.tokens.to(device),
            activations=opened.rows.items(batch.first_item, stop).to(device),
            keep=batch.keep.to(device),
            documents=batch.documents.to(device),
            variants=variants,
        )
        tell((number + 1) / len(batches), "spliced models")
    return losses.results()


def _largest_coordinates(mean: Tensor, k: int) -> Reconstruct:
    """The neurons of the hook point as a dictionary: the k that deviate most keep their value."""

    def reconstruct(x: Tensor) -> Tensor:
        away = x - mean.to(x.device)
        kept_ones = away.abs().topk(min(k, x.shape[1]), dim=1).indices
        only = torch.zeros_like(away).scatter_(1, kept_ones, away.gather(1, kept_ones))
        return mean.to(x.device) + only

    return reconstruct
