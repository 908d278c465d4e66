"""Whether a technique gives more than the strongest of its controls, over all sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bathyscope.config import Config
from bathyscope.pages.study_data import Table
from bathyscope.stages.studies.capability.techniques import Figure
from bathyscope.stages.studies.capability.verdicts import Judged
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import Row, judged, sign_of
from bathyscope.studies.intervals import Interval, Rows, bootstrap


class Rival(NamedTuple):
    """The strongest control of a technique in one architecture, and by how much it is beaten."""

    judged: Judged
    words: str
    technique_mean: float
    control_mean: float
    difference: Interval
    """Technique less control of each model, the mean; over models (size and seed)."""

    @property
    def answer(self) -> str:
        """Whether the technique gives more."""
        return sign_of(self.difference.estimate, self.difference.low, self.difference.high)


def rivals_of(
    config: Config, members: Sequence[Member], rows: Sequence[Row], found: Sequence[Judged]
) -> list[Rival]:
    """For each technique that has controls in its own unit, the one of the highest mean."""
    made = []
    for each in found:
        against = [
            rival
            for figure in each.technique.controls
            if figure.rival
            and (
                rival := _against(config, each, figure.words, _values(each, figure, members, rows))
            )
        ]
        if against:
            made.append(max(against, key=lambda rival: rival.control_mean))
    return made


def rivals_table(rivals: Sequence[Rival]) -> Table:
    """The strongest control of every technique."""
    columns = (
        ("architecture", "architecture", "text"),
        ("technique", "technique", "text"),
        ("mean", "mean over models", "number"),
        ("control", "strongest control", "text"),
        ("control_mean", "its mean", "number"),
        ("difference", "difference", "interval"),
        ("answer", "gives more", "text"),
    )
    return Table(
        "Each technique against its strongest control",
        columns,
        [
            {
                "architecture": rival.judged.architecture,
                "technique": rival.judged.technique.short,
                "mean": rival.technique_mean,
                "control": rival.words,
                "control_mean": rival.control_mean,
                "difference": (
                    rival.difference.estimate,
                    rival.difference.low,
                    rival.difference.high,
                ),
                "answer": rival.answer,
            }
            for rival in rivals
        ],
    )


def rivals_told(rivals: Sequence[Rival]) -> str:
    """The techniques of the first architecture that do not beat their strongest control."""
    if not rivals:
        return ""
    own = [rival for rival in rivals if rival.judged.architecture == rivals[0].judged.architecture]
    beaten = [f"{r.judged.technique.short} ({r.words})" for r in own if r.answer != "yes"]
    return f"Not above the strongest control: {'; '.join(beaten)}." if beaten else ""


def _values(
    each: Judged, figure: Figure, members: Sequence[Member], rows: Sequence[Row]
) -> dict[str, float]:
    alike = [m for m in judged(members) if m.architecture == each.architecture]
    return {v.member.name: v.value for v in each.technique.values(alike, rows, figure)}


def _against(config: Config, each: Judged, words: str, control: dict[str, float]) -> Rival | None:
    """The difference over the models that have both; None where none has."""
    both = [v for v in each.values if v.member.name in control]
    if not both:
        return None
    own = np.array([v.value for v in both])
    other = np.array([control[v.member.name] for v in both])
    away = own - other

    def mean(chosen: Rows) -> dict[str, float]:
        return {"difference": float(away[chosen].mean())}

    study = config.study
    found = bootstrap(mean, np.arange(len(away)), seed=study.seed, resamples=study.resamples)
    return Rival(each, words, float(own.mean()), float(other.mean()), found["difference"])
