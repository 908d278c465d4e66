"""What follows from the removable shares: each method by itself, and only then all together.

Published figures disagree by method: of Llama-2 7B, 13B and 70B without half of their weights the
perplexity is 2.91, 1.39 and 1.60 times that of the whole model by magnitude, and 1.25, 1.22 and
1.28 times by Wanda (Sun et al. 2023). So no method says alone that larger models waste more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from bathyscope.config import Config
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import (
    Of,
    Row,
    by_architecture,
    judged,
    means,
    spread,
    trend_of,
    trend_verdict,
)
from bathyscope.stages.studies.waste_measures import EXCLUDED, POINT, SUMMARY
from bathyscope.stages.studies.waste_methods import BLOCKS, METHODS, WEIGHTS, Method
from bathyscope.studies.regression import Trend

WASTE_MORE = "larger models waste more: the share that can be removed grows with the size."
_FEWEST_KINDS = 2
_DOUBT = {
    "weights": "Nothing is trained again after removal, and zeros are not speed.",
    "blocks": "Between whole blocks the share is interpolated, and all sizes have few blocks.",
    "bits": "Steps count as bits, so shares of small matrices are a little lower.",
}
_SPARES_NONE = (
    "No model can lose one whole block within the budget: this share is of the way to the first "
    "block, and says how much that costs, not that anything can be spared."
)
_FURTHER = "More sizes, another calibration text, or training after removal, with the other sign."


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


def verdicts(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Verdict]:
    """All methods together first, then each, then what Wanda removes beyond magnitude."""
    found = together(config, members, rows)
    budget = f"{config.study.budget_nats:g} nats"
    for method in (m for m in METHODS if not m.control):
        told = trend_verdict(
            f"the share that {method.words} removes at {budget} rises with the size.",
            removable(members, rows, method.name),
            config,
            wanted="rises",
            unit="share",
            controls=_controls(members, rows, method),
            doubt=_doubt(members, rows, method),
            would_change=_FURTHER,
        )
        if not _can_spare(config, members, rows, method):
            told = [replace(v, answer="not shown", doubt=f"{_SPARES_NONE} {v.doubt}") for v in told]
        found += told
    found += trend_verdict(
        f"what Wanda removes at {budget} beyond magnitude shrinks with the size.",
        _differences(members, rows, "wanda", "magnitude"),
        config,
        wanted="falls",
        unit="share",
        controls=f"Beyond magnitude: {_spread(_differences(members, rows, 'wanda', 'magnitude'))}; "
        f"SparseGPT {_spread(_differences(members, rows, 'sparsegpt', 'magnitude'))}.",
        doubt="If this holds, the size trend of magnitude is partly that of its own weakness, as "
        "for Llama-2 (7B to 70B, half removed: 2.91, 1.39, 1.60 times the perplexity by magnitude; "
        "1.25, 1.22, 1.28 by Wanda).",
        would_change="Sizes at which both methods remove the same.",
    )
    return found


def together(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Verdict]:
    """Whether larger models waste more: yes only where two kinds of removal say so, and none no.

    Weights, blocks and bits are kinds; methods of one kind rank the same things, and are one voice.
    The figure is the slope of the second strongest kind, on which the answer rests.
    """
    counted = [m for m in METHODS if not m.control and _can_spare(config, members, rows, m)]
    left_out = [
        m.words
        for m in METHODS
        if not m.control and m not in counted and removable(members, rows, m.name)
    ]
    groups = {m.name: by_architecture(removable(members, rows, m.name)) for m in counted}
    names = dict.fromkeys(name for found in groups.values() for name in found)
    verdicts = []
    for architecture in names:
        trends = {name: trend_of(v.get(architecture, []), config) for name, v in groups.items()}
        shown = [
            Shown(m, t)
            for m in METHODS
            if (t := trends.get(m.name)) is not None and t.num_sizes > 2
        ]
        if shown:
            made = _verdict(architecture, shown, _controls_of_all(members, rows))
            if left_out:
                told = f"Not counted: {', '.join(left_out)}. {_SPARES_NONE}"
                made = replace(made, doubt=f"{made.doubt} {told}")
            verdicts.append(made)
    return verdicts


def _verdict(architecture: str, shown: Sequence[Shown], controls: str) -> Verdict:
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
        claim=f"{architecture}: {WASTE_MORE}",
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


def removable(members: Sequence[Member], rows: Sequence[Row], method: str) -> list[Of]:
    """The removable share of each member that carries a verdict."""
    return means(judged(members), rows, "removable", _summary(method))


def _can_spare(
    config: Config, members: Sequence[Member], rows: Sequence[Row], method: Method
) -> bool:
    """Whether a model that carries a verdict can lose a whole block; other shares have no step."""
    if method.kind != BLOCKS:
        return True
    names = {m.name for m in judged(members)}
    return any(
        r["blocks"] and r["rise"] <= config.study.budget_nats
        for r in rows
        if r["kind"] == POINT and r["method"] == method.name and r["member"] in names
    )


def _differences(members: Sequence[Member], rows: Sequence[Row], one: str, other: str) -> list[Of]:
    less = {v.member.name: v.value for v in removable(members, rows, other)}
    return [
        Of(v.member, v.value - less[v.member.name])
        for v in removable(members, rows, one)
        if v.member.name in less
    ]


def _summary(method: str) -> Callable[[Row], bool]:
    return lambda row: row["kind"] == SUMMARY and row["method"] == method


def _controls(members: Sequence[Member], rows: Sequence[Row], method: Method) -> str:
    """Removable shares of the method, of chance, and of models without training."""
    told = [f"{method.words} {_spread(removable(members, rows, method.name))}"]
    for control in (m for m in METHODS if m.control and m.kind == method.kind):
        told.append(f"{control.words} {_spread(removable(members, rows, control.name))}")
    told.append(f"models without training {_untrained(members, rows, method)}")
    return "; ".join(told) + "."


def _controls_of_all(members: Sequence[Member], rows: Sequence[Row]) -> str:
    told = [f"{m.words} {_spread(removable(members, rows, m.name))}" for m in METHODS if m.control]
    magnitude = next(m for m in METHODS if m.kind == WEIGHTS)
    told.append(
        f"magnitude of models without training {_untrained(members, rows, magnitude)}: they have "
        "learned next to nothing that removal could take"
    )
    return f"Removable shares: {'; '.join(told)}."


def _untrained(members: Sequence[Member], rows: Sequence[Row], method: Method) -> str:
    untrained = [m for m in members if not m.trained]
    return _spread(means(untrained, rows, "removable", _summary(method.name)))


def _doubt(members: Sequence[Member], rows: Sequence[Row], method: Method) -> str:
    names = {v.member.name for v in removable(members, rows, method.name)}
    own = [r for r in rows if r["member"] in names and _summary(method.name)(r)]
    told = [_DOUBT[method.kind]]
    if least := sum(bool(r["at_least"]) for r in own):
        told.append(f"{least} of {len(own)} models stay within the budget at every share.")
    told += excluded(rows, method.name)
    if method.kind != BLOCKS:
        told.append("Embeddings and head are left whole.")
    return " ".join(told)


def excluded(rows: Sequence[Row], method: str) -> list[str]:
    """Which models a method leaves out, and why."""
    found: Mapping[str, str] = {
        r["member"]: r["reason"] for r in rows if r["kind"] == EXCLUDED and r["method"] == method
    }
    return [f"{name} is left out: {reason}." for name, reason in found.items()]


def _spread(values: Sequence[Of]) -> str:
    return spread(v.value for v in values)
