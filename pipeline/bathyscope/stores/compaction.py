"""Compaction: every full thousand of receipts becomes one pack.

Any process may do it at any time, and be killed at any time: a pack counts from the moment that
its last file is created, and the receipts that it holds are removed afterwards. Readers take the
pack where both are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from bathyscope.stores.packs import GROUP
from bathyscope.stores.receipts import Receipts, of_group
from bathyscope.values import Receipt, UnitPlan


def compact(receipts: Receipts, plan: UnitPlan, *, check: Callable[[], None] = lambda: None) -> int:
    """Pack every full thousand of the plan; the number of packs made.

    `check` is called before each. Raises `ReceiptConflict` when a receipt that lies beside its
    pack says something else: both are set aside.
    """
    loose, packed = receipts.listed()
    made = 0
    for group in np.unique(loose // GROUP).tolist():
        members = of_group(loose, group)
        if group in packed:
            _settle(receipts, group, members.tolist())
        elif len(members) == GROUP and (group + 1) * GROUP <= plan.num_units:
            check()
            made += pack(receipts, plan, group)
    return made


def pack(receipts: Receipts, plan: UnitPlan, group: int) -> bool:
    """Pack one full thousand; False when it is not full, or another process was faster."""
    number = receipts.packs.number(group)
    if number % 2:
        return False
    units = range(group * GROUP, (group + 1) * GROUP)
    splits = {unit: plan.unit(unit).split for unit in units}
    try:
        if not receipts.packs.create(group, number, _members(receipts, units), splits):
            return False
    except _NotFull:
        return False
    if receipts.packs.number(group) == number + 1:
        receipts.drop_loose(units)
    return True


class _NotFull(Exception):
    """A receipt was taken back after the listing."""


def _members(receipts: Receipts, units: range) -> Iterator[Receipt]:
    """All receipts in order of units; few are held at a time, for their sums are large."""
    for start in range(0, len(units), 64):
        for receipt in receipts.loose_many(units[start : start + 64]):
            if receipt is None:
                raise _NotFull
            yield receipt


def _settle(receipts: Receipts, group: int, units: list[int]) -> None:
    """Remove receipts that lie beside their pack: of a killed compaction or a late worker."""
    for receipt in receipts.loose_many(units):
        if receipt is not None:
            receipts.create(receipt)
    if receipts.packs.number(group) % 2:
        receipts.drop_loose(units)
