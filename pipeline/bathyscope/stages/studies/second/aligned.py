"""Sums over rows that a source and a target have in common, after so many of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.errors import ConfigError
from bathyscope.metrics.controls import SecondMoments
from bathyscope.metrics.reconstruction import Reconstruction
from bathyscope.stages.masks import kept
from bathyscope.stages.studies.opened import ITEMS, OpenedMember
from bathyscope.studies.linear_maps import LinearMap
from bathyscope.studies.paired_moments import PairedMoments
from bathyscope.values import HELD_OUT, TRAIN

_BLOCK = 4096


@dataclass
class Aligned:
    """What maps are fitted from; the first n training rows are nested in those of a larger n."""

    means: tuple[Tensor, Tensor]
    """Of all training rows of both, float64: what a harvest knows, and every start is given."""
    at: dict[int, PairedMoments] = field(default_factory=dict)
    """Sums over (source, target) after n rows."""
    shuffled: PairedMoments | None = None
    """After the middle n, with the target's rows in another order."""
    used: dict[str, Tensor] = field(default_factory=dict)
    """Σz² of each latent of dictionaries of the source over the same rows, by name."""


def aligned(
    source: OpenedMember,
    target: OpenedMember,
    marks: Sequence[int],
    *,
    shuffle_at: int,
    seed: int,
    dictionaries: dict[str, Dictionary],
) -> Aligned:
    """Read the first training rows of both once, as many as the largest of `marks`.

    `dictionaries` are those of the source of which latents have to be chosen. Rows change places
    inside of sixteen sequences for the shuffle. Raises `ConfigError` where there are fewer rows.
    """
    means = mean_of(source), mean_of(target)
    found, whole, other = Aligned(means), _moments(means), _moments(means)
    found.used = {n: torch.zeros(d.num_latents).double() for n, d in dictionaries.items()}
    generator = torch.Generator().manual_seed(seed)
    for x, y in _cut(lambda: _blocks([source, target]), marks):
        whole.update(x, y)
        if whole.num_rows <= shuffle_at:
            other.update(x, y[torch.randperm(len(y), generator=generator)])
            for name, dictionary in dictionaries.items():
                found.used[name] += _squares(dictionary, x)
        if whole.num_rows in marks:
            found.at[whole.num_rows] = copy.deepcopy(whole)
        if whole.num_rows == shuffle_at:
            found.shuffled = copy.deepcopy(other)
    return found


def target_moments(target: OpenedMember, marks: Sequence[int]) -> dict[int, SecondMoments]:
    """Mean and scatter of the first n training rows of a model, for each n of `marks`."""
    found: dict[int, SecondMoments] = {}
    sums = SecondMoments(target.rows.width)
    for [y] in _cut(lambda: _blocks([target]), marks):
        sums.update(y)
        if sums.num_rows in marks:
            found[sums.num_rows] = copy.deepcopy(sums)
    return found


@torch.no_grad()
def map_fvu(
    source: OpenedMember,
    target: OpenedMember,
    maps: dict[int, LinearMap],
    means: tuple[Tensor, Tensor],
    tokens: int,
) -> dict[int, float]:
    """What each map from source to target leaves unexplained of held-out rows."""
    sums = {n: Reconstruction(target.rows.width) for n in maps}
    for x, y in _blocks([source, target], HELD_OUT, tokens):
        for n, found in maps.items():
            y_hat = means[1] + (x.double() - means[0]) @ found.matrix
            sums[n].update(y, y_hat, num_active=torch.zeros(len(y)))
    return {n: each.results()["fvu"] for n, each in sums.items()}


def mean_of(opened: OpenedMember) -> Tensor:
    """The mean of all training rows of a model [d], float64."""
    return torch.from_numpy(opened.rows.moments(TRAIN, kept).mean)


def _cut(
    blocks: Callable[[], Iterator[list[Tensor]]], marks: Sequence[int]
) -> Iterator[list[Tensor]]:
    """Blocks that end where a mark is, up to the last one."""
    done, last = 0, max(marks)
    for block in blocks():
        while len(block[0]) and done < last:
            stop = min(mark for mark in marks if mark > done)
            taken = min(stop - done, len(block[0]))
            yield [rows[:taken] for rows in block]
            block, done = [rows[taken:] for rows in block], done + taken
        if done == last:
            return
    raise ConfigError(
        f"There are {done:,} training rows that two models share, and study.map_tokens asks for "
        f"{last:,}. Raise study.train_tokens, or ask for fewer."
    )


def _blocks(
    members: Sequence[OpenedMember], split: str = TRAIN, tokens: int = 0
) -> Iterator[list[Tensor]]:
    """Rows that count [n, d] of each member from the same places, in order; 0 tokens reads all."""
    first = members[0]
    there = first.corpus.split_range(split)
    stop = there.stop
    if tokens:
        stop = min(stop, there.start + max(tokens // first.rows.per_item, 1))
    for start in range(there.start, stop, ITEMS):
        end = min(start + ITEMS, stop)
        keep = first.batch(start, end).keep
        yield [each.rows.items(start, end)[keep].float() for each in members]


def _moments(means: tuple[Tensor, Tensor]) -> PairedMoments:
    x, y = means
    return PairedMoments(len(x), len(y), shift_x=x, shift_y=y)


@torch.no_grad()
def _squares(dictionary: Dictionary, x: Tensor) -> Tensor:
    latents = dictionary.encode(x)
    found = torch.zeros(dictionary.num_latents).double()
    squares = latents.values.double().square().flatten()
    return found.index_add_(0, latents.indices.long().flatten(), squares)
