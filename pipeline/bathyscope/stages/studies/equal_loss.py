"""Models of a family at matched capability: a small model against a larger one of equal loss.

Of every two adjacent sizes of one architecture and seed, the smaller one's final weights are set
against the larger one's training where it first had that loss, see `studies/matched.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bathyscope.config import Config
from bathyscope.pages.study_data import Table, Verdict
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import judged
from bathyscope.studies.intervals import Interval, Rows, bootstrap
from bathyscope.studies.matched import Checkpoint, Matched, match_capability

Curve = Callable[[Member], Sequence[Checkpoint]]
"""(tokens, loss, value) along the training of a member; the final weights come last."""


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


class Asked(NamedTuple):
    """What is asked of the larger of two models of equal loss."""

    claim: str
    """A sentence without the architecture, which is put before it."""
    unit: str
    wanted: str
    """`lower` or `higher`: the value of the larger one if the claim holds."""
    doubt: str = ""
    control: tuple[str, Sequence[Pair]] | None = None
    """What else was measured of the same pairs, in words, and these."""


def adjacent(members: Sequence[Member]) -> list[tuple[Member, Member]]:
    """Every two models of adjacent sizes, of one architecture and seed, the smaller one first."""
    groups: dict[tuple[str, int | None], list[Member]] = {}
    for member in judged(members):
        groups.setdefault((member.architecture, member.seed), []).append(member)
    return [
        (small, larger)
        for alike in groups.values()
        for small, larger in pairwise(sorted(alike, key=lambda m: m.parameters))
        if small.parameters < larger.parameters
    ]


def pairs_of(members: Sequence[Member], curve: Curve) -> list[Pair]:
    """Every pair of adjacent sizes with a curve, those too that have no equal loss."""
    found = []
    for small, larger in adjacent(members):
        low, high = curve(small), curve(larger)
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


def equal_loss_verdicts(config: Config, asked: Asked, pairs: Sequence[Pair]) -> list[Verdict]:
    """A verdict per architecture, the one of the most pairs first."""
    return [
        _verdict(config, asked, name, [p for p in pairs if p.small.architecture == name])
        for name, _ in Counter(p.small.architecture for p in pairs).most_common()
    ]


def pairs_table(named: Sequence[tuple[str, Sequence[Pair]]]) -> Table:
    """A row per quantity, by its name, and pair."""
    found = [
        {
            "quantity": name,
            "small": pair.small.name,
            "larger": pair.larger.name,
            "loss": pair.matched.small.loss,
            "tokens": pair.matched.step,
            "value": pair.matched.small.value,
            "matched": pair.matched.value,
            "difference": pair.matched.difference,
            "final": pair.final_difference,
            "bracket": pair.matched.width,
            "note": pair.matched.note,
        }
        for name, own in named
        for pair in own
    ]
    columns = (
        ("quantity", "quantity", "text"),
        ("small", "small model, at its end", "text"),
        ("larger", "larger model", "text"),
        ("loss", "equal loss, nats", "number"),
        ("tokens", "after tokens", "number"),
        ("value", "small", "number"),
        ("matched", "larger at equal loss", "number"),
        ("difference", "difference", "number"),
        ("final", "difference of final weights", "number"),
        ("bracket", "between checkpoints, nats apart", "number"),
        ("note", "doubt", "text"),
    )
    return Table("Adjacent sizes at matched capability", columns, found)


def _verdict(config: Config, asked: Asked, name: str, pairs: Sequence[Pair]) -> Verdict:
    """`yes` where the interval of the difference is on the side that the claim wants."""
    line = per_decade(pairs, config)
    answer = "not measured" if line is None else "not shown"
    if line is not None and (line.high < 0 or line.low > 0):
        answer = "yes" if (line.high < 0) == (asked.wanted == "lower") else "no"
    none = math.nan
    return Verdict(
        claim=f"{name}: at equal loss, {asked.claim}",
        answer=answer,
        value=none if line is None else line.estimate,
        low=none if line is None else line.low,
        high=none if line is None else line.high,
        unit=f"{asked.unit}, larger less smaller, per tenfold parameters",
        controls=_controls(config, asked, pairs),
        doubt=" ".join(filter(None, [asked.doubt, _doubt(pairs)])),
        would_change="The opposite sign with checkpoints so dense that none is interpolated, and "
        "a constant learning rate.",
    )


def _controls(config: Config, asked: Asked, pairs: Sequence[Pair]) -> str:
    final = [p.final_difference / p.decades for p in pairs]
    initial = [p.initial_difference / p.decades for p in pairs if p.initial_difference is not None]
    told = f"Per tenfold parameters: final weights, which differ in loss, {np.mean(final):.3g}"
    if initial:
        told += f"; initial weights, thus size alone, {np.mean(initial):.3g}"
    words, others = asked.control or ("", [])
    name = pairs[0].small.architecture
    line = per_decade([p for p in others if p.small.architecture == name], config)
    if line is not None:
        told += f"; at equal loss, {words} {line.estimate:.3g} [{line.low:.3g}, {line.high:.3g}]"
    return f"{told}.".replace(" -", " −").replace("[-", "[−")


def _doubt(pairs: Sequence[Pair]) -> str:
    met = [p for p in pairs if p.matched.difference is not None]
    widest = max((p.matched.width or 0 for p in met), default=0.0)
    doubted = sum(bool(p.matched.note) for p in met)
    seeds = len({p.small.seed for p in pairs})
    told = (
        f"{len(met)} of {len(pairs)} pairs of adjacent sizes have an equal loss, {seeds} seeds. "
        f"Checkpoints around it are up to {widest:.2g} nats apart, with a straight line between "
        "them. The larger model is at a higher learning rate there than the small one at its end. "
        "Pairs share models, so the interval is one over pairs, not over independent trainings."
    )
    return f"{told} In {doubted} the loss does not simply fall there." if doubted else told
