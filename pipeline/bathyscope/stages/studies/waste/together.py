"""Whether larger models waste more, by all methods: never by one alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from bathyscope.config import Config
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import (
    Of,
    Row,
    by_architecture,
    training_told,
    trend_of,
)
from bathyscope.stages.studies.waste.methods import METHODS, WEIGHTS, Method
from bathyscope.stages.studies.waste.shares import (
    SPARES_NONE,
    removable,
    spares_no_block,
    spread_of,
    untrained_spread,
)
from bathyscope.studies.regression import Trend

WASTE_MORE = "larger models waste more: the share that can be removed grows with the size."
_FEWEST_KINDS, _FEWEST_SIZES = 2, 3


class Shown(NamedTuple):
    """The trend of one method over the sizes of an architecture."""

    method: Method
    trend: Trend

    @property
    def told(self) -> str:
        """Method, slope and interval."""
        line = self.trend.per_decade
        numbers = f"{line.estimate:.2g} [{line.low:.2g}, {line.high:.2g}]"
        return f"{self.method.words} {numbers.replace('-', '−')}"


def together(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Verdict]:
    """Whether larger models waste more by their last weights, of each architecture."""
    methods = [m for m in METHODS if not m.control]
    groups = {m: by_architecture(removable(members, rows, m.name)) for m in methods}
    verdicts = []
    for architecture in dict.fromkeys(name for found in groups.values() for name in found):
        values = {m: found.get(architecture, []) for m, found in groups.items()}
        made = agreement(
            config, f"{architecture}: {WASTE_MORE}", values, rows, _controls_of_all(members, rows)
        )
        for verdict in made:
            known = [v.member for v in next(filter(None, values.values()))]
            if seen := training_told(known):
                told = "Weights that saw little text may hold little, whatever the size."
                verdict = replace(verdict, doubt=f"{verdict.doubt} {seen} {told}")
            verdicts.append(verdict)
    return verdicts


def agreement(
    config: Config,
    claim: str,
    values: Mapping[Method, Sequence[Of]],
    rows: Sequence[Row],
    controls: str,
) -> list[Verdict]:
    """Yes only where two kinds of removal rise with the size of an architecture, and none falls.

    Weights, blocks and bits are kinds; methods of one kind rank the same things, and are one voice.
    The figure is the slope of the second strongest kind, on which the answer rests. Nothing where
    no method has three sizes.
    """
    shown, left_out = [], []
    for method, own in values.items():
        trend = trend_of(own, config)
        if trend is None or trend.num_sizes < _FEWEST_SIZES:
            continue
        if spares_no_block(config, own, rows, method):
            left_out.append(method.words)
        else:
            shown.append(Shown(method, trend))
    if not shown:
        return []
    made = _verdict(claim, shown, controls)
    if left_out:
        told = f"Not counted: {', '.join(left_out)}. {SPARES_NONE}"
        made = replace(made, doubt=f"{made.doubt} {told}")
    return [made]


def _verdict(claim: str, shown: Sequence[Shown], controls: str) -> Verdict:
    """One voice per kind: its strongest method, so long as no method of any kind is against it."""
    rises = [s for s in shown if s.trend.verdict == "rises"]
    falls = [s for s in shown if s.trend.verdict == "falls"]
    answer = "not shown"
    if _kinds(rises) >= _FEWEST_KINDS and not falls:
        answer = "yes"
    elif _kinds(falls) >= _FEWEST_KINDS and not rises:
        answer = "no"
    second = _second(shown, downward=answer == "no")
    line = None if second is None else second.trend.per_decade
    unit = "share per tenfold parameters"
    if second is not None:
        unit += f", by the second strongest kind ({second.method.words})"
    return Verdict(
        claim=claim,
        answer=answer,
        value=None if line is None else line.estimate,
        low=None if line is None else line.low,
        high=None if line is None else line.high,
        unit=unit,
        controls=controls,
        doubt=_depends(shown, rises, falls),
        would_change="Two kinds of removal (weights, blocks, bits) whose intervals lie on the same "
        "side of 0, and none on the other.",
    )


def _depends(shown: Sequence[Shown], rises: Sequence[Shown], falls: Sequence[Shown]) -> str:
    """Every method by its side, and on which the answer would depend."""
    neither = [s for s in shown if s not in rises and s not in falls]
    parts = [
        f"{words}: {', '.join(s.told for s in found) or 'none'}"
        for words, found in (("Rises by", rises), ("Falls by", falls), ("Not shown by", neither))
    ]
    told = f"Share per tenfold parameters. {'. '.join(parts)}."
    if len({s.trend.verdict for s in shown}) > 1:
        told += " So the answer depends on the method."
    kinds = {s.method.kind for s in shown}
    if len(kinds) < _FEWEST_KINDS:
        told += f" Only {', '.join(sorted(kinds))} were taken away: one kind is no evidence."
    trend = shown[0].trend
    return (
        f"{told} {trend.num_sizes} small sizes, {trend.num_groups} models, one calibration text; "
        "nothing is trained again."
    )


def _second(shown: Sequence[Shown], *, downward: bool) -> Shown | None:
    """The strongest method of the second strongest kind; None for one kind."""
    best: dict[str, Shown] = {}
    for each in shown:
        held = best.get(each.method.kind)
        if held is None or _bound(each, downward) > _bound(held, downward):
            best[each.method.kind] = each
    ranked = sorted(best.values(), key=lambda s: -_bound(s, downward))
    return ranked[1] if len(ranked) > 1 else None


def _bound(shown: Shown, downward: bool) -> float:
    """The end of the interval that is nearer to the other side; larger is stronger."""
    line = shown.trend.per_decade
    found = -line.high if downward else line.low
    return found if found == found else float("-inf")


def _kinds(shown: Sequence[Shown]) -> int:
    return len({s.method.kind for s in shown})


def _controls_of_all(members: Sequence[Member], rows: Sequence[Row]) -> str:
    told = [
        f"{m.words} {spread_of(removable(members, rows, m.name))}" for m in METHODS if m.control
    ]
    magnitude = next(m for m in METHODS if m.kind == WEIGHTS)
    untrained = untrained_spread(members, rows, magnitude)
    told.append(
        f"magnitude of models without training {untrained}: they have learned next to nothing that "
        "removal could take"
    )
    return f"Removable shares: {'; '.join(told)}."
