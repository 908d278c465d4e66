"""What follows from the removable shares: each method by itself, and only then all together.

Published figures disagree by method: of Llama-2 7B, 13B and 70B without half of their weights the
perplexity is 2.91, 1.39 and 1.60 times that of the whole model by magnitude, and 1.25, 1.22 and
1.28 times by Wanda (Sun et al. 2023). So no method says alone that larger models waste more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bathyscope.config import Config
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import Of, Row, by_architecture, trend_verdict
from bathyscope.stages.studies.waste.measures import EXCLUDED
from bathyscope.stages.studies.waste.methods import BLOCKS, METHODS, Method
from bathyscope.stages.studies.waste.shares import (
    SPARES_NONE,
    is_summary,
    removable,
    spares_no_block,
    spread_of,
    untrained_spread,
)
from bathyscope.stages.studies.waste.together import together

_DOUBT = {
    "weights": "Nothing is trained again after removal, and zeros are not speed.",
    "blocks": "Between whole blocks the share is interpolated, and all sizes have few blocks.",
    "bits": "Steps count as bits, so shares of small matrices are a little lower.",
}
_TAKING = {"weights": "pruning", "blocks": "dropping blocks", "bits": "rounding"}
_FURTHER = "More sizes, another calibration text, or training after removal, with the other sign."


def verdicts(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Verdict]:
    """All methods together first, then each, then what Wanda removes beyond magnitude."""
    found = together(config, members, rows)
    budget = f"{config.study.budget_nats:g} nats"
    for method in (m for m in METHODS if not m.control):
        values = removable(members, rows, method.name)
        told = trend_verdict(
            f"the share that {method.words} removes at {budget} rises with the size.",
            values,
            config,
            wanted="rises",
            unit="share",
            controls=_controls(members, rows, method),
            doubt=_doubt(members, rows, method),
            would_change=_FURTHER,
        )
        found += [_spared(config, v, values, rows, method) for v in told]
    beyond = _differences(members, rows, "wanda", "magnitude")
    updated = _differences(members, rows, "sparsegpt", "magnitude")
    found += trend_verdict(
        f"what Wanda removes at {budget} beyond magnitude shrinks with the size.",
        beyond,
        config,
        wanted="falls",
        unit="share",
        controls=f"Wanda {spread_of(beyond)}; SparseGPT {spread_of(updated)} beyond magnitude.",
        doubt="If this holds, the size trend of magnitude is partly that of its own weakness, as "
        "for Llama-2 (7B to 70B, half removed: 2.91, 1.39, 1.60 times the perplexity by magnitude; "
        "1.25, 1.22, 1.28 by Wanda).",
        would_change="Sizes at which both methods remove the same.",
    )
    return found


def _spared(
    config: Config, verdict: Verdict, values: Sequence[Of], rows: Sequence[Row], method: Method
) -> Verdict:
    """The verdict, or "not shown" where no model of its architecture can lose a whole block."""
    own = by_architecture(values)[verdict.claim.partition(":")[0]]
    if not spares_no_block(config, own, rows, method):
        return verdict
    return replace(verdict, answer="not shown", doubt=f"{SPARES_NONE} {verdict.doubt}")


def _differences(members: Sequence[Member], rows: Sequence[Row], one: str, other: str) -> list[Of]:
    less = {v.member.name: v.value for v in removable(members, rows, other)}
    return [
        Of(v.member, v.value - less[v.member.name])
        for v in removable(members, rows, one)
        if v.member.name in less
    ]


def _controls(members: Sequence[Member], rows: Sequence[Row], method: Method) -> str:
    """Removable shares of the method, of chance, and of models without training."""
    told = [f"{method.words} {spread_of(removable(members, rows, method.name))}"]
    for control in (m for m in METHODS if m.control and m.kind == method.kind):
        told.append(f"{control.words} {spread_of(removable(members, rows, control.name))}")
    told.append(f"models without training {untrained_spread(members, rows, method)}")
    return "; ".join(told) + "."


def _doubt(members: Sequence[Member], rows: Sequence[Row], method: Method) -> str:
    names = {v.member.name for v in removable(members, rows, method.name)}
    own = [r for r in rows if r["member"] in names and is_summary(method.name)(r)]
    told = [_DOUBT[method.kind]]
    if least := sum(bool(r["at_least"]) for r in own):
        told.append(f"{least} of {len(own)} models stay within the budget at every share.")
    told += excluded(rows, method)
    if method.kind != BLOCKS:
        told.append("Embeddings and head are left whole.")
    return " ".join(told)


def excluded(rows: Sequence[Row], method: Method) -> list[str]:
    """Which models a method leaves out, and why; methods of one kind say the same."""
    found: Mapping[str, str] = {
        r["member"]: r["reason"]
        for r in rows
        if r["kind"] == EXCLUDED and r["method"] == method.name
    }
    return [f"{name} is left out of {_TAKING[method.kind]}: {why}." for name, why in found.items()]
