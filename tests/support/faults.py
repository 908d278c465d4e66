"""Every way in which a store is hurt, and what must come of it.

A kind is a function of (folder, random source): it hurts a store through real processes and real
files, and asserts that the fault is found and named, that nothing wrong is read at any time, and
that the same command, or what `verify` says, brings back every row.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bathyscope.errors import StoreError
from bathyscope.runs.work import begin
from bathyscope.stores.manifests import latest
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.rows import SegmentReader
from bathyscope.stores.verify import Checked, check_segment
from fault_worker import (
    ARTIFACT,
    KILL,
    PER_UNIT,
    REFUSED,
    SHARD,
    STOP,
    UNITS,
    Fall,
    Orders,
    rows_of,
    run,
    start,
    work,
)

Kind = Callable[[Path, random.Random], None]
SHARDS = PER_UNIT // SHARD


def objects_of(folder: Path) -> Objects:
    """The artifact."""
    return Objects(str(folder / "run")).at(ARTIFACT)


def orders(folder: Path, **changes: Any) -> Orders:
    """What a worker on this store is told."""
    return Orders(str(folder / "run"), str(folder / "said.txt"), **changes)


def said(folder: Path) -> str:
    """What the last worker that was refused had to say."""
    return (folder / "said.txt").read_text(encoding="utf-8")


def check_reads(folder: Path, *, devices: tuple[int, ...] = (0,)) -> int:
    """Read whatever can be read; the number of units. A wrong row is an error, a named fault not.

    A unit must come from one device, whole.
    """
    good = 0
    try:
        reader = SegmentReader(objects_of(folder), work().segment)
    except StoreError:
        return 0
    for unit in reader.units:
        try:
            rows = reader.read("x", unit)
        except StoreError:
            continue
        assert any(np.array_equal(rows, rows_of(unit.index, d)) for d in devices), unit
        good += 1
    return good


def verified(folder: Path) -> Checked:
    """What `bathyscope verify` finds in the artifact."""
    objects = objects_of(folder)
    manifest = latest(objects)
    assert manifest is not None
    complete = manifest.state == "complete"
    return check_segment(objects, work().segment, complete=complete)


def repair(folder: Path, *, units: set[int]) -> None:
    """Do what `verify` says, after a look that it names just these units."""
    found = verified(folder)
    named = {u for f in found.faults for u in f.units}
    named |= {int(f.what.split()[1]) for f in found.faults if f.what.endswith("has no receipt")}
    assert named == units, (found.faults, units)
    for unit in {u for f in found.faults for u in f.units}:
        assert Receipts(objects_of(folder), work().segment.name).void(unit, "a fault")


def check_whole(folder: Path, *, device: int = 0, devices: tuple[int, ...] = (0,)) -> None:
    """The same command completes the store, and every row is there."""
    assert run(orders(folder, device=device)) == 0, said(folder)
    assert check_reads(folder, devices=devices) == UNITS
    assert verified(folder).faults == []
    assert begin(Objects(str(folder / "run")), work(), force=False).complete


def complete(folder: Path) -> None:
    """A store without a fault."""
    assert run(orders(folder)) == 0, said(folder)


def shard(folder: Path, draw: random.Random) -> tuple[Path, int]:
    """One of the shards, and its unit."""
    number = draw.randrange(UNITS * SHARDS)
    key = work().segment.arrays[0].shard_key(work().segment.name, number)
    return folder / "run" / ARTIFACT / key, number // SHARDS


def receipt_file(folder: Path, unit: int) -> Path:
    """The file of a receipt."""
    key = Receipts(objects_of(folder), work().segment.name).key(unit)
    return folder / "run" / ARTIFACT / key


def killed_in_a_shard(folder: Path, draw: random.Random) -> None:
    """SIGKILL in the middle of a shard."""
    fall = Fall(KILL, "/c.", draw.randrange(UNITS * SHARDS) + 1, draw.random())
    assert run(orders(folder, fall=fall)) == -signal.SIGKILL
    assert check_reads(folder) == (fall.nth - 1) // SHARDS
    check_whole(folder)


def killed_in_a_receipt(folder: Path, draw: random.Random) -> None:
    """SIGKILL in the middle of a receipt."""
    fall = Fall(KILL, "/receipts/", draw.randrange(UNITS) + 1, draw.random())
    assert run(orders(folder, fall=fall)) == -signal.SIGKILL
    assert check_reads(folder) == fall.nth - 1
    check_whole(folder)


def stopped_and_redone(folder: Path, draw: random.Random, device: int = 0) -> None:
    """SIGSTOP in a shard or a receipt; another worker does everything; SIGCONT."""
    nth = draw.randrange(UNITS) + 1
    where = draw.choice([("/receipts/", nth), ("/c.", (nth - 1) * SHARDS + draw.randrange(4) + 1)])
    sleeper = start(orders(folder, lease_s=0.4, fall=Fall(STOP, *where, draw.random())))
    both = (0, device)
    try:
        _wait_for(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_STOPPED, sleeper)
        code = run(orders(folder, device=device, lease_s=0.4))
        assert code == 0, said(folder)
        assert check_reads(folder, devices=both) == UNITS
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
        sleeper.join(60)
    # It lost its lease, or finds its unit done; with other bits at its receipt, both are set aside.
    assert sleeper.exitcode in (0, REFUSED), sleeper.exitcode
    if sleeper.exitcode == REFUSED:
        assert said(folder).startswith(("LeaseLost", "ReceiptConflict")), said(folder)
    assert check_reads(folder, devices=both) >= UNITS - 1
    check_whole(folder, device=device, devices=both)


def stopped_with_other_bits(folder: Path, draw: random.Random) -> None:
    """The same, and the other worker's device gives other bits."""
    stopped_and_redone(folder, draw, device=1)


def disk_full(folder: Path, draw: random.Random) -> None:
    """A real file system runs full, and is made larger."""
    full = folder / "small"
    full.mkdir()
    # Every file takes a page: 24 shards, 6 receipts, leases and manifests do not fit.
    size = 4096 * draw.randrange(6, 24)
    _mount(["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(full)])
    try:
        told = Orders(str(full / "run"), str(folder / "said.txt"))
        code = run(told)
        assert code == REFUSED, (code, size)
        assert "cannot be written or read: " in said(folder)
        assert "No space left on device" in said(folder)
        assert "Check free space" in said(folder)
        check_reads(full)
        _mount(["-o", "remount,size=64m", str(full)])
        assert run(told) == 0, said(folder)
        check_whole_at(full)
    finally:
        subprocess.run(["umount", "-l", str(full)], check=True)


def check_whole_at(folder: Path) -> None:
    """Every row is there, nothing is left over."""
    assert check_reads(folder) == UNITS
    assert verified(folder).faults == []


def truncated_shard(folder: Path, draw: random.Random) -> None:
    """A shard loses its end."""
    complete(folder)
    path, unit = shard(folder, draw)
    os.truncate(path, draw.randrange(path.stat().st_size))
    check_reads(folder)
    repair(folder, units={unit})
    check_whole(folder)


def flipped_byte(folder: Path, draw: random.Random) -> None:
    """One bit of a shard turns."""
    complete(folder)
    path, unit = shard(folder, draw)
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    assert check_reads(folder) >= UNITS - 1
    repair(folder, units={unit})
    check_whole(folder)


def missing_receipt(folder: Path, draw: random.Random) -> None:
    """A receipt is deleted."""
    complete(folder)
    unit = draw.randrange(UNITS)
    receipt_file(folder, unit).unlink()
    assert check_reads(folder) == UNITS - 1
    repair(folder, units={unit})
    check_whole(folder)


def damaged_receipt(folder: Path, draw: random.Random) -> None:
    """A receipt loses its end."""
    complete(folder)
    unit = draw.randrange(UNITS)
    path = receipt_file(folder, unit)
    os.truncate(path, draw.randrange(path.stat().st_size))
    assert check_reads(folder) in (0, UNITS - 1)
    repair(folder, units={unit})
    check_whole(folder)


def receipt_without_its_shard(folder: Path, draw: random.Random) -> None:
    """Shards of a unit are deleted, its receipt stays."""
    complete(folder)
    path, unit = shard(folder, draw)
    path.unlink()
    check_reads(folder)
    repair(folder, units={unit})
    check_whole(folder)


def two_schedulers(folder: Path, draw: random.Random) -> None:
    """Two runs of the same command on one store."""
    both = []
    for _ in range(2):
        both.append(start(orders(folder)))
        time.sleep(draw.uniform(0, 0.1))
    for process in both:
        process.join(60)
    codes = sorted(process.exitcode for process in both)
    assert codes in ([0, 0], [0, REFUSED]), codes
    if REFUSED in codes:
        assert "Another process published" in said(folder), said(folder)
    check_whole(folder)


def foreign_unit(folder: Path, draw: random.Random) -> None:
    """A receipt of another unit, or of a unit that the plan does not have."""
    complete(folder)
    unit, other = draw.sample(range(UNITS), 2)
    if draw.random() < 0.5:
        other += UNITS
    source = receipt_file(folder, unit).read_bytes()
    receipt_file(folder, other).write_bytes(source)
    assert check_reads(folder) in (0, UNITS - 1)
    repair(folder, units={other})
    check_whole(folder)


def jumping_clock(folder: Path, draw: random.Random) -> None:
    """Two workers whose clocks jump by days at every look."""
    both = [start(orders(folder, lease_s=5.0, jumps=draw.randrange(10**6))) for _ in range(2)]
    for process in both:
        process.join(60)
    for process in both:
        assert process.exitcode in (0, REFUSED), process.exitcode
    check_reads(folder)
    check_whole(folder)


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        killed_in_a_shard,
        killed_in_a_receipt,
        stopped_and_redone,
        stopped_with_other_bits,
        disk_full,
        truncated_shard,
        flipped_byte,
        missing_receipt,
        damaged_receipt,
        receipt_without_its_shard,
        two_schedulers,
        foreign_unit,
        jumping_clock,
    )
}


def can_mount() -> bool:
    """Whether this process may mount a file system, which `disk_full` needs."""
    return os.geteuid() == 0 and Path("/proc/filesystems").exists() and _try_mount()


def _try_mount() -> bool:
    probe = Path("/tmp") / f"bathyscope-mount-{os.getpid()}"
    probe.mkdir()
    try:
        _mount(["-t", "tmpfs", "-o", "size=4k", "tmpfs", str(probe)])
        subprocess.run(["umount", str(probe)], check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        probe.rmdir()
    return True


def _mount(words: list[str]) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def _wait_for(ready: Callable[[], bool], process: Any) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert process.exitcode is None, process.exitcode
        assert time.monotonic() < end
        time.sleep(0.01)
