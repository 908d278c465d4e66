"""Receipts are packed while a stage runs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from bathyscope.errors import ReceiptConflict
from bathyscope.jobs.packing import Packing
from bathyscope.runs.work import Begun, begin
from bathyscope.runs.work import Work as StageWork
from bathyscope.stores.objects import Objects
from bathyscope.stores.packs import GROUP
from bathyscope.stores.receipts import Receipts
from bathyscope.values import UnitPlan
from receipts import put_receipts

_numbers = itertools.count()


@pytest.fixture
def begun() -> Begun:
    plan = UnitPlan((("train", 0, 1500),), 1)
    work = StageWork("harvest", "activations.zarr", {"stage": "harvest"}, plan)
    return begin(Objects(f"memory://packing-{next(_numbers)}"), work, force=False)


def receipts_of(begun: Begun) -> Receipts:
    return Receipts(begun.objects, begun.work.segment.name)


def pack(begun: Begun, error: BaseException | None = None) -> None:
    with Packing(begun) as packing:
        for _ in range(GROUP):
            packing.unit_done()
        if error:
            raise error


def test_a_thousand_units_make_a_pack(begun: Begun) -> None:
    receipts: Any = receipts_of(begun)
    put_receipts(receipts, range(1500))

    with Packing(begun) as packing:
        for _ in range(GROUP - 1):
            packing.unit_done()
        assert receipts.packs.numbers() == {}
        packing.unit_done()

    assert receipts.packs.numbers() == {0: 1}
    assert receipts.units().tolist() == list(range(1500))


def test_what_packing_finds_wrong_stops_the_stage(begun: Begun) -> None:
    receipts = receipts_of(begun)
    put_receipts(receipts, range(1000))
    pack(begun)
    put_receipts(receipts, [3], seed=1)

    with pytest.raises(ReceiptConflict, match="Unit 3"):
        pack(begun)


def test_an_error_of_the_stage_is_the_one_that_is_told(begun: Begun) -> None:
    receipts = receipts_of(begun)
    put_receipts(receipts, range(1000))
    receipts.objects.put(receipts.key(3), b"damaged")

    with pytest.raises(KeyboardInterrupt):
        pack(begun, KeyboardInterrupt())
