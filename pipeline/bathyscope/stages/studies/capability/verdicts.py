"""What the study shows of each technique: over size and capability, and whether it has a middle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bathyscope.config import Config
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.capability.shapes import TENTH, Shapes, shapes_of
from bathyscope.stages.studies.capability.techniques import TECHNIQUES, Technique
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import (
    Of,
    Row,
    by_architecture,
    counted,
    judged,
    spread,
    training_told,
    trend_of,
)
from bathyscope.studies.regression import Trend
from bathyscope.studies.sweet_spot import FEWEST_SEEDS, FEWEST_SIZES, SweetSpot

_ANSWERS = {"rises": "yes", "falls": "no", "no trend shown": "not shown"}
_MIDDLE = "is highest at a middle size or capability."
_WITH_SIZE, _WITH_CAPABILITY = "rises with the size.", "rises with capability."


class Judged(NamedTuple):
    """A technique and the values of one architecture that has three sizes or more."""

    technique: Technique
    architecture: str
    values: list[Of]
    shapes: Shapes


def judged_techniques(
    config: Config, members: Sequence[Member], rows: Sequence[Row], bits: Mapping[str, float]
) -> list[Judged]:
    """Every technique, for each architecture that it can be judged of."""
    found = []
    for technique in TECHNIQUES:
        groups = by_architecture(technique.values(judged(members), rows))
        for architecture, values in groups.items():
            shapes = shapes_of(config, values, bits)
            if shapes is not None:
                found.append(Judged(technique, architecture, values, shapes))
    return found


def verdicts(
    config: Config, members: Sequence[Member], rows: Sequence[Row], found: Sequence[Judged]
) -> list[Verdict]:
    """Whether each has a middle, then whether it rises with size, then with capability."""
    made = [_middle(each, _controls(config, each, members, rows)) for each in found]
    for words, unit, scale in (
        (_WITH_SIZE, "per tenfold parameters", math.log(10)),
        (_WITH_CAPABILITY, "per tenth fewer bits per byte", TENTH),
    ):
        for each in found:
            shapes = each.shapes
            shown = shapes.trend if words == _WITH_SIZE else shapes.capability_trend
            line = shown.slope
            made.append(
                Verdict(
                    claim=f"{each.architecture}: {each.technique.subject} {words}",
                    answer=_ANSWERS[shown.verdict],
                    value=scale * line.estimate,
                    low=scale * line.low,
                    high=scale * line.high,
                    unit=f"{each.technique.unit} {unit}",
                    controls=_controls(config, each, members, rows),
                    doubt=_doubt(config, each, members, rows, shown),
                    would_change=each.technique.would_change,
                )
            )
    return made


def answer(found: Sequence[Judged]) -> str:
    """What the verdicts come to, for the architecture of the most sizes."""
    if not found:
        return "Nothing was measured that could carry a verdict: three sizes are the least."
    name = found[0].architecture
    own = [each for each in found if each.architecture == name]
    middle = [each.technique.short for each in own if _answer_of(each) == "yes"]
    told = [
        f"{name}: a middle size or capability at which a technique works best is "
        f"{'shown of ' + '; '.join(middle) if middle else f'not shown of any of {len(own)}'}."
    ]
    for verdict, words in (
        ("rises", "Rises with the size"),
        ("falls", "Falls with the size"),
        ("no trend shown", "No trend with the size is shown of"),
    ):
        names = [each.technique.short for each in own if each.shapes.trend.verdict == verdict]
        if names:
            told.append(f"{words}: {'; '.join(names)}.")
    return " ".join(told)


def over_size(shapes: Shapes) -> str:
    """Which middle is named over sizes, or why none."""
    spot = shapes.over_size.sweet_spot
    if spot is None:
        return shapes.over_size.reason
    return f"{spot.kind} at {spot.size:,.0f} parameters"


def over_capability(shapes: Shapes) -> str:
    """The same over capability; places in a reason are 1 / bits per byte."""
    if shapes.over_capability is None:
        return "two sizes have equal bits per byte"
    spot = shapes.over_capability.sweet_spot
    if spot is None:
        return shapes.over_capability.reason.replace("sizes", "capabilities")
    return f"{spot.kind} at {1 / spot.size:.3g} bits per byte"


def _middle(each: Judged, controls: str) -> Verdict:
    """Whether the technique is best in a middle; the figure is where, or the parabola's weight."""
    shapes = each.shapes
    weight = shapes.over_size.weights["quadratic"]
    value: tuple[float | None, float | None, float | None] = (weight, None, None)
    unit = "Akaike weight of the parabola over sizes"
    if (spot := shapes.over_size.sweet_spot) is not None:
        value, unit = (spot.size, spot.low, spot.high), "parameters"
    elif (spot := _of_capability(shapes)) is not None:
        value, unit = (1 / spot.size, 1 / spot.high, 1 / spot.low), "bits per byte"
    return Verdict(
        claim=f"{each.architecture}: {each.technique.subject} {_MIDDLE}",
        answer=_answer_of(each),
        value=value[0],
        low=value[1],
        high=value[2],
        unit=unit,
        controls=controls,
        doubt=_doubt_of_middle(each),
        would_change="More sizes, beyond both ends: a parabola is told from a curve that flattens "
        "by what comes after its top.",
    )


def _of_capability(shapes: Shapes) -> SweetSpot | None:
    return None if shapes.over_capability is None else shapes.over_capability.sweet_spot


def _answer_of(each: Judged) -> str:
    spots = (each.shapes.over_size.sweet_spot, _of_capability(each.shapes))
    kinds = {spot.kind for spot in spots if spot is not None}
    if kinds == {"maximum"}:
        return "yes"
    return "no" if kinds == {"minimum"} else "not shown"


def _doubt_of_middle(each: Judged) -> str:
    told = [
        f"Over sizes: {over_size(each.shapes)}.",
        f"Over capability: {over_capability(each.shapes)}.",
        f"Here: {_counts(each.values)}.",
    ]
    if not math.isfinite(each.shapes.over_size.shapes["quadratic"].aicc):
        told.append("There are too few points for the AICc of a parabola.")
    return " ".join([*told, each.technique.doubt])


def _doubt(
    config: Config,
    each: Judged,
    members: Sequence[Member],
    rows: Sequence[Row],
    shown: Trend,
) -> str:
    others = by_architecture(each.technique.values(judged(members), rows))
    small = [
        f"{name}, {counted(len({v.member.parameters for v in own}), 'size')}{_slope(config, own)}"
        for name, own in others.items()
        if len({v.member.parameters for v in own}) < 3
    ]
    told = [each.technique.doubt, f"{_counts(each.values)}, {shown.num_groups} models."]
    told.append(training_told([v.member for v in each.values]))
    if small:
        told.append(f"Not judged: {'; '.join(small)}.")
    return " ".join(filter(None, told))


def _counts(values: Sequence[Of]) -> str:
    sizes = {v.member.parameters for v in values}
    seeds = {v.member.seed for v in values}
    told = f"{counted(len(sizes), 'size')}, {counted(len(seeds), 'seed')}"
    few = len(sizes) < FEWEST_SIZES or len(seeds) < FEWEST_SEEDS
    return f"{told}: too few to name a middle" if few else told


def _controls(config: Config, each: Judged, members: Sequence[Member], rows: Sequence[Row]) -> str:
    """The figure of the models, of its controls, and of models without training."""
    technique = each.technique
    alike = [m for m in members if m.architecture == each.architecture]
    own = spread(v.value for v in each.values)
    told = [f"{technique.figure.words} {own}"]
    for figure in technique.controls:
        values = technique.values(judged(alike), rows, figure)
        told.append(f"{figure.words} {spread(v.value for v in values)}")
    untrained = technique.values([m for m in alike if not m.trained], rows)
    told.append(
        f"models without training {spread(v.value for v in untrained)}{_slope(config, untrained)}"
    )
    text = "; ".join(told).replace(" -", " −")
    return f"{text[0].upper()}{text[1:]}."


def _slope(config: Config, values: Sequence[Of]) -> str:
    """The slope over size in words; empty for fewer than two sizes."""
    shown = trend_of(values, config)
    if shown is None:
        return ""
    line = shown.per_decade
    ends = f" [{line.low:.2g}, {line.high:.2g}]" if math.isfinite(line.low) else ""
    return f" ({line.estimate:+.2g}{ends} per tenfold parameters)".replace("-", "−")
