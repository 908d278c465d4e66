"""Superposition at matched capability: a small model against a larger one of equal loss.

Of every two adjacent sizes of one architecture and seed, the smaller one's final weights are set
against the larger one's training where it first had that loss, see `studies/matched.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bathyscope.config import Config
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.superposition.measures import FINAL
from bathyscope.stages.studies.verdicts import Row, judged
from bathyscope.studies.intervals import Interval, Rows, bootstrap
from bathyscope.studies.matched import Checkpoint, Matched, match_capability


class Quantity(NamedTuple):
    """What is compared: a column of the rows of one kind."""

    kind: str
    key: str
    title: str
    less: str
    """`lower` or `higher`: which of two values means less superposition."""


class Pair(NamedTuple):
    """Two models of adjacent sizes at equal loss."""

    small: Member
    larger: Member
    matched: Matched
    final_difference: float
    """Of the final weights, which differ in loss."""
    initial_difference: float | None
    """Of both at their initial weights, where these are kept: what the size alone does."""

    @property
    def decades(self) -> float:
        """log10 of the ratio of parameters."""
        return math.log10(self.larger.parameters / self.small.parameters)


def curve_of(member: Member, rows: Sequence[Row], quantity: Quantity) -> list[Checkpoint]:
    """(tokens, loss, value) along the training; the final weights come last."""
    found: dict[int, Checkpoint] = {}
    for row in rows:
        if (
            row["member"] == member.name
            and row["kind"] == quantity.kind
            and row.get(quantity.key) is not None
            and row.get("loss") is not None
            and row.get("state_tokens") is not None
        ):
            tokens = int(row["state_tokens"])
            # Of equal tokens the final weights count.
            if row["state"] == FINAL or tokens not in found:
                found[tokens] = Checkpoint(tokens, row["loss"], row[quantity.key])
    return [found[tokens] for tokens in sorted(found)]


def pairs_of(members: Sequence[Member], rows: Sequence[Row], quantity: Quantity) -> list[Pair]:
    """Every pair of adjacent sizes, those too that have no equal loss."""
    groups: dict[tuple[str, int | None], list[Member]] = {}
    for member in judged(members):
        groups.setdefault((member.architecture, member.seed), []).append(member)
    found = []
    for alike in groups.values():
        ordered = sorted(alike, key=lambda m: m.parameters)
        for small, larger in pairwise(ordered):
            if small.parameters == larger.parameters:
                continue
            low, high = (curve_of(m, rows, quantity) for m in (small, larger))
            if low and high:
                both = low[0].step == high[0].step == 0
                found.append(
                    Pair(
                        small,
                        larger,
                        match_capability(low[-1], high),
                        high[-1].value - low[-1].value,
                        high[0].value - low[0].value if both else None,
                    )
                )
    return found


def per_decade(pairs: Sequence[Pair], config: Config) -> Interval | None:
    """The mean difference at equal loss per tenfold parameters, with its interval over pairs.

    Pairs of neighbours share a model, which is the larger one here and the smaller one there. Its
    own deviation enters with both signs, so that the interval is, as far as this goes, too wide.
    None without any pair.
    """
    values = np.array(
        [p.matched.difference / p.decades for p in pairs if p.matched.difference is not None]
    )
    if not len(values):
        return None

    def mean(chosen: Rows) -> dict[str, float]:
        return {"difference": float(values[chosen].mean())}

    study = config.study
    found = bootstrap(mean, np.arange(len(values)), seed=study.seed, resamples=study.resamples)
    return found["difference"]
