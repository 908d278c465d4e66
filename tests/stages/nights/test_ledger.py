"""What nights have seen: written anew by each, the last two kept."""

from __future__ import annotations

from pathlib import Path

from bathyscope.stages.nights.ledger import (
    FOLDER,
    Ledger,
    Pair,
    drop_older,
    load_ledger,
    save_ledger,
)
from bathyscope.stages.nights.watched import Checkpoint, WatchedFile
from bathyscope.stores.objects import Objects


def full() -> Ledger:
    return Ledger(
        files={"in/a": WatchedFile("in/a", 5, 6, "x"), "in/b": WatchedFile("in/b", 7, 8, "y")},
        slices={"000001": {"tokens": 10}, "000002": {"tokens": 20}},
        checkpoints={n: Checkpoint(n, n, {"path": n}) for n in ("late", "early")},
        done=[Pair("late", "000002"), Pair("late", "000001"), Pair("early", "000001")],
        pending=[Pair("early", "000002")],
        tables={"late": "features/00000002/late"},
    )


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    assert load_ledger(objects, save_ledger(objects, full(), 2)) == full()
    assert load_ledger(objects, save_ledger(objects, Ledger(), 3)) == Ledger()


def test_slices_and_readers_are_in_the_order_in_which_they_came() -> None:
    ledger = full()
    assert ledger.slices_of("late") == ["000001", "000002"]
    assert ledger.slices_of("nobody") == []
    assert ledger.readers_of("000001") == ["late", "early"]
    assert ledger.digests() == {"x", "y"}


def test_the_ledgers_of_two_nights_stay(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    for night in range(1, 5):
        save_ledger(objects, full(), night)
        drop_older(objects, night)
    assert objects.files(FOLDER) == [
        f"0000000{n}.{kind}" for n in (3, 4) for kind in ("json", "parquet")
    ]
