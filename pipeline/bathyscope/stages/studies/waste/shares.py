"""Removable shares of the models of a study, and of its controls, as verdicts read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bathyscope.config import Config
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import Of, Row, judged, means, spread
from bathyscope.stages.studies.waste.measures import POINT, SUMMARY
from bathyscope.stages.studies.waste.methods import BLOCKS, Method

SPARES_NONE = (
    "No model can lose one whole block within the budget: this share is of the way to the first "
    "block, and says how much that costs, not that anything can be spared."
)


def removable(members: Sequence[Member], rows: Sequence[Row], method: str) -> list[Of]:
    """The removable share of each member that carries a verdict."""
    return means(judged(members), rows, "removable", is_summary(method))


def spares_no_block(
    config: Config, values: Sequence[Of], rows: Sequence[Row], method: Method
) -> bool:
    """Whether a method drops blocks and none of these models can lose a whole one."""
    names = {v.member.name for v in values}
    return method.kind == BLOCKS and not any(
        r["blocks"] and r["rise"] <= config.study.budget_nats
        for r in rows
        if r["kind"] == POINT and r["method"] == method.name and r["member"] in names
    )


def is_summary(method: str) -> Callable[[Row], bool]:
    """Passes the row that sums up a method."""
    return lambda row: row["kind"] == SUMMARY and row["method"] == method


def untrained_spread(members: Sequence[Member], rows: Sequence[Row], method: Method) -> str:
    """Smallest to largest removable share of the models without training."""
    untrained = [m for m in members if not m.trained]
    return spread_of(means(untrained, rows, "removable", is_summary(method.name)))


def spread_of(values: Sequence[Of]) -> str:
    """Smallest to largest value."""
    return spread(v.value for v in values)
