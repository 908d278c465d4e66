"""The guard of a unit: several threads write its shards and confirm one lease."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import noop_stage
import pytest

from bathyscope.config import Config
from bathyscope.errors import LeaseLost, StoreError
from bathyscope.jobs.unit import FollowerGuard, UnitGuard, do_unit
from bathyscope.runs.work import begin
from bathyscope.stores.leases import Holder, Leases
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from support import changed


def test_threads_that_confirm_a_lease_while_it_is_renewed_do_not_lose_it(tmp_path: Path) -> None:
    # So short that nearly every look renews it.
    leases = Leases(Objects(str(tmp_path)), "seg", seconds=0.0002)
    lease = leases.claim(0)
    assert lease is not None
    guard = UnitGuard(leases, lease, lambda fraction, text: None)
    together = threading.Barrier(4)

    def confirm() -> None:
        together.wait()
        for _ in range(50):
            guard.check()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(confirm) for _ in range(4)]:
            done.result()

    assert guard.lease.term > 10, "it was renewed again and again"


def test_a_unit_whose_receipt_cannot_be_read_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(Config(), url=str(tmp_path / "run"), data__train_tokens=2)
    begun = begin(Objects(config.url), noop_stage.units(config), force=False)

    def broken(self: Receipts, unit: int) -> Any:
        raise StoreError("no answer in time")

    with monkeypatch.context() as patched:
        patched.setattr(Receipts, "get", broken)
        with pytest.raises(StoreError, match="no answer in time"):
            do_unit(
                noop_stage,
                begun.remaining[0],
                context=None,
                work=begun.work,
                objects=begun.objects,
                lease_s=600,
                report=lambda fraction, text: None,
            )
    other = Leases(begun.objects, begun.work.segment.name, holder=Holder("another-host", 1, 0.0))
    assert other.claim(0) is not None, "nobody waits for the lease to end"


def test_a_lease_is_confirmed_while_no_shard_is_full_for_long(tmp_path: Path) -> None:
    leases = Leases(Objects(str(tmp_path)), "seg", seconds=0.2)
    lease = leases.claim(0)
    assert lease is not None
    told: list[float] = []
    guard = UnitGuard(leases, lease, lambda fraction, text: told.append(fraction))
    for turn in range(8):
        time.sleep(0.04)
        guard.progress(turn / 8)
    assert guard.lease.term > 1
    assert len(told) == 8


def test_a_follower_confirms_the_lease_of_the_one_that_leads(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    leader = Leases(objects, "seg", seconds=0.0002)
    lease = leader.claim(0)
    assert lease is not None
    told: list[float] = []
    follower = FollowerGuard(
        Leases(objects, "seg", holder=Holder("another-host", 1, 0.0)),
        lease,
        lambda fraction, text: told.append(fraction),
    )
    renewed = leader.check(lease)
    assert renewed.term > lease.term
    follower.check()
    follower.progress(0.5)
    assert (follower.keep, follower.turn, told) == (True, None, [0.5])


@pytest.mark.parametrize("ending", ["give_back", "take_over", "release"])
def test_a_follower_stops_when_its_leader_has_the_unit_no_more(tmp_path: Path, ending: str) -> None:
    objects = Objects(str(tmp_path))
    leader = Leases(objects, "seg")
    lease = leader.claim(0)
    assert lease is not None
    follower = FollowerGuard(Leases(objects, "seg"), lease, lambda fraction, text: None)
    follower.check()
    if ending == "give_back":
        leader.give_back(lease)
    elif ending == "take_over":
        Leases(objects, "seg", holder=Holder("another-host", 1, 0.0)).take_over(0)
    else:
        leader.release(0)
    with pytest.raises(LeaseLost, match="which leads this one"):
        follower.check()
