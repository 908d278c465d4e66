"""A stage whose units do nothing: what is left is the cost of scheduling, leases and receipts."""

from __future__ import annotations

from typing import Any

from bathyscope.config import Config
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.values import TRAIN, Json, Unit, UnitPlan


def units(config: Config) -> Work:
    """As many units as `data.train_tokens` says, of one item each."""
    plan = UnitPlan(((TRAIN, 0, config.data.train_tokens),), 1)
    return Work("noop", "noop.zarr", {"stage": "noop", "units": plan.num_units}, plan)


def open(config: Config, work: Work) -> None:
    """Nothing is shared."""


def run(unit: Unit, context: Any, guard: Guard) -> Outcome:
    """Nothing is done."""
    return Outcome(valid=unit.num_items)


def finish(config: Config, begun: Begun, receipts: StoredReceipts) -> Json:
    """Publish; say how many units were done, and how often more than once."""
    facts = {"units": len(receipts)}
    publish(begun, facts)
    return facts
