"""Writers that are stopped or killed in the middle of a unit, as real processes."""

import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from bathyscope.errors import LeaseLost
from bathyscope.stores.leases import Holder, Leases
from bathyscope.stores.manifests import Segment
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.shards import ArraySpec, open_array
from bathyscope.stores.units import create_segment, write_unit
from bathyscope.values import Receipt, UnitPlan

SPEC = ArraySpec("resid", (4,), "uint16", "bfloat16", chunk_rows=2, shard_rows=4)
SEGMENT = Segment("seg", UnitPlan((("train", 0, 12),), 12), arrays=(SPEC,), rows_per_unit=12)
ROWS = np.arange(48, dtype=np.uint16).reshape(12, 4)
UNIT = SEGMENT.plan.units()[0]

# Does unit 0 of SEGMENT and sends itself SIGSTOP (or SIGKILL) at one check of its lease: before
# or after it looks. The last check is the one before the receipt.
WRITER = """
import os, signal, sys
import numpy as np
from bathyscope.errors import LeaseLost
from bathyscope.stores.leases import Leases
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.units import write_unit
from bathyscope.values import Receipt, UnitPlan

url, when, number, name = sys.argv[1:]
objects = Objects(url)
spec = ArraySpec("resid", (4,), "uint16", "bfloat16", chunk_rows=2, shard_rows=4)
segment = Segment("seg", UnitPlan((("train", 0, 12),), 12), arrays=(spec,), rows_per_unit=12)
rows = np.arange(48, dtype=np.uint16).reshape(12, 4)
unit = segment.plan.units()[0]
leases = Leases(objects, "seg")
lease = leases.claim(0)
calls = 0

def fall():
    os.kill(os.getpid(), getattr(signal, name))

def check():
    global lease, calls
    calls += 1
    if calls == int(number) and when == "before":
        fall()
    lease = leases.check(lease)
    if calls == int(number) and when == "after":
        fall()

try:
    shards = write_unit(objects, segment, unit=unit, rows={"resid": rows}, check=check)
    check()
except LeaseLost:
    sys.exit(3)
receipt = Receipt(0, term=lease.term, valid=12, shards=shards, writer={"host": "stopped"})
Receipts(objects, "seg").create(receipt)
leases.release(0)
"""


def start(url, when, number, fate):
    return subprocess.Popen([sys.executable, "-c", WRITER, url, when, str(number), fate])


def wait_until_stopped(process):
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.poll() is None
        time.sleep(0.01)


def redo(objects, *, seconds_later):
    """Take the unit after some time and do it; return the lease."""
    holder = Holder("rescuer", 1, 0.0)
    leases = Leases(objects, "seg", holder=holder, clock=lambda: time.time() + seconds_later)
    lease = leases.claim(0)
    assert lease is not None

    def check():
        leases.check(lease)

    shards = write_unit(objects, SEGMENT, unit=UNIT, rows={"resid": ROWS}, check=check)
    receipt = Receipt(0, term=lease.term, valid=12, shards=shards, writer={"host": "rescuer"})
    Receipts(objects, "seg").create(receipt)
    leases.release(0)
    return lease


@pytest.mark.parametrize(
    ("when", "number", "code"),
    [("before", 2, 3), ("after", 2, 3), ("after", 4, 0)],
    ids=["before-a-look", "before-a-shard", "before-the-receipt"],
)
def test_a_stopped_writer_that_wakes_again_does_no_harm(disk, when, number, code):
    create_segment(disk, SEGMENT)
    process = start(disk.url, when, number, "SIGSTOP")
    try:
        wait_until_stopped(process)
        assert Leases(disk, "seg").claim(0) is None, "a stopped process is alive"
        lease = redo(disk, seconds_later=700.0)
        receipt = Receipts(disk, "seg").get(0)

        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=30) == code
    finally:
        process.kill()
        process.wait()

    assert (lease.term, lease.attempt) == (2, 2)
    assert receipt.writer == {"host": "rescuer"}
    assert Receipts(disk, "seg").get(0) == receipt
    assert disk.children("quarantine") == []
    np.testing.assert_array_equal(open_array(disk, "seg", "resid")[:], ROWS)


def test_a_writer_that_wakes_while_its_unit_is_redone_finishes_it_for_both(disk):
    create_segment(disk, SEGMENT)
    process = start(disk.url, "after", 4, "SIGSTOP")
    try:
        wait_until_stopped(process)
        rescuer = Holder("rescuer", 1, 0.0)
        leases = Leases(disk, "seg", holder=rescuer, clock=lambda: time.time() + 700.0)
        lease = leases.claim(0)
        leases.check(lease)

        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()

    with pytest.raises(LeaseLost, match="finished"):
        leases.check(lease)
    assert Receipts(disk, "seg").get(0).writer == {"host": "stopped"}
    np.testing.assert_array_equal(open_array(disk, "seg", "resid")[:], ROWS)


@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_killed_writer_leaves_no_receipt_and_its_unit_is_free_at_once(disk, number):
    create_segment(disk, SEGMENT)
    process = start(disk.url, "after", number, "SIGKILL")
    assert process.wait(timeout=30) == -9
    assert Receipts(disk, "seg").units().tolist() == []
    assert sum("/c." in key for key, _ in disk.walk("resid")) == number - 1

    assert redo(disk, seconds_later=0.0).attempt == 2

    assert Receipts(disk, "seg").units().tolist() == [0]
    np.testing.assert_array_equal(open_array(disk, "seg", "resid")[:], ROWS)
