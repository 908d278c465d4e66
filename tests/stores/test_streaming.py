import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bathyscope.errors import ConfigError, LeaseLost
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.rows import SegmentReader
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.streaming import Streaming
from bathyscope.stores.units import create_segment, write_unit
from bathyscope.stores.verify import check_segment
from bathyscope.values import Receipt, UnitPlan

SPEC = ArraySpec("x", (4,), "uint16", "bfloat16", chunk_rows=4, shard_rows=8)
# 20 training units and 2 held-out ones, of two shards.
PLAN = UnitPlan((("train", 0, 320), ("held_out", 320, 352)), 16)
SEGMENT = Segment("seg", PLAN, arrays=(SPEC,), rows_per_unit=16)
UNIT = Streaming(Objects("memory://unit"), SEGMENT).unit_bytes


@pytest.fixture
def stream(objects, clock):
    """A stream with room for three units."""
    create_segment(objects, SEGMENT)
    found = Streaming(objects, SEGMENT, clock=clock)
    found.limit(3 * UNIT)
    return found


def write(objects, unit):
    rows = {"x": np.full((16, 4), unit + 1, dtype=np.uint16)}
    shards = write_unit(
        objects, SEGMENT, unit=PLAN.unit(unit), rows=rows, check=lambda: None, fsync=False
    )
    Receipts(objects, "seg").create(Receipt(unit, 1, 16, shards))
    return sum(s.size_bytes for s in shards)


def test_no_more_is_granted_than_there_is_room_for(stream):
    assert stream.reserve([0, 1]) == [0, 1]
    assert stream.reserve([1, 2, 3]) == [1, 2], "1 holds its room already"
    assert stream.reserve([3]) == []
    assert stream.held_bytes() == 3 * UNIT


def test_room_that_was_not_needed_is_given_back(stream, objects):
    stream.reserve([0, 1, 2])
    size = write(objects, 0)
    stream.written({0: size, 9: 5})

    assert size < UNIT
    assert stream.held_bytes() == 2 * UNIT + size


def test_a_unit_goes_when_every_consumer_has_passed_it(stream, objects):
    for unit in stream.reserve([0, 1]):
        write(objects, unit)
    stream.register("a")
    stream.register("b")
    stream.passed("a", [0, 1])
    assert stream.retire() == []
    stream.passed("b", [0])

    assert stream.retire() == [0]

    assert stream.retired().tolist() == [0]
    assert stream.held_bytes() == UNIT
    assert stream.reserve([2, 3]) == [2, 3]
    assert [key for key, _ in objects.walk("x/seg") if "c.0." in key or "c.1." in key] == []
    reader = SegmentReader(objects, SEGMENT)
    assert [u.index for u in reader.units] == [1]
    assert Receipts(objects, "seg").units().tolist() == [0, 1], "it counts as done"
    assert stream.reserve([0]) == [0], "and needs no room"
    assert stream.retire() == []


def test_held_out_units_stay(stream, objects):
    stream.reserve([20])
    write(objects, 20)
    stream.register("a")
    stream.passed("a", [20])

    assert stream.retire() == []


def test_nothing_goes_that_nobody_has_passed(stream, objects):
    stream.reserve([0])
    write(objects, 0)
    assert stream.retire() == []
    stream.register("a")
    stream.leave("a")
    assert stream.retire() == []


def test_a_consumer_that_has_left_holds_nothing_and_what_it_passed_counts(stream):
    stream.reserve([0, 1])
    stream.register("a")
    stream.passed("a", [0])
    stream.leave("a")

    assert stream.retire() == [0]


def test_a_silent_consumer_expires_and_is_told(stream, clock):
    stream.reserve([0, 1])
    stream.register("dead", seconds=60)
    stream.register("alive", seconds=600)
    stream.passed("alive", [0])
    clock.now += 59
    stream.passed("dead")
    clock.now += 59
    assert stream.retire() == []
    clock.now += 2

    assert stream.retire() == [0]
    with pytest.raises(LeaseLost, match=r"'dead' .* was not heard of in time"):
        stream.passed("dead", [0])
    stream.register("dead")
    stream.passed("dead")


def test_a_death_between_mark_and_release_is_made_good_by_anybody(stream, objects, monkeypatch):
    for unit in stream.reserve([0, 1, 2]):
        write(objects, unit)
    stream.register("a")
    stream.passed("a", [0, 1])
    monkeypatch.setattr(
        type(objects), "delete_many", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        stream.retire()
    monkeypatch.undo()

    assert [u.index for u in SegmentReader(objects, SEGMENT).units] == [2], "at once"
    assert stream.held_bytes() == 3 * UNIT, "not before the bytes are gone"
    assert Streaming(objects, SEGMENT).retire() == [0, 1]
    assert stream.held_bytes() == UNIT
    assert {key.split(".")[1] for key, _ in objects.walk("x/seg") if "/c." in key} == {"4", "5"}


def test_a_unit_that_is_retired_while_a_reader_opens_is_no_fault(stream, objects, monkeypatch):
    for unit in stream.reserve([0, 1]):
        write(objects, unit)
    stream.register("a")
    stream.passed("a", [0])
    check = SegmentReader.check_sizes

    def late(self):
        stream.retire()
        check(self)

    monkeypatch.setattr(SegmentReader, "check_sizes", late)
    reader = SegmentReader(objects, SEGMENT)

    assert (reader.read("x", PLAN.unit(1)) == 2).all()


def test_verify_knows_what_is_retired(stream, objects):
    for unit in stream.reserve([0, 1]):
        write(objects, unit)
    stream.register("a")
    stream.passed("a", [0])
    stream.retire()

    found = check_segment(objects, SEGMENT, complete=False)

    assert found.faults == []
    assert (found.units, found.shards) == (2, 2)


def test_a_limit_below_one_unit_is_refused(stream):
    with pytest.raises(ConfigError, match=f"{UNIT - 1} bytes cannot hold one unit .* {UNIT}"):
        stream.limit(UNIT - 1)


def test_without_a_limit_there_is_room(objects):
    free = Streaming(objects, SEGMENT)

    assert free.reserve(range(22)) == list(range(22))


_PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
from test_streaming import SEGMENT, PLAN, write
import numpy as np
from bathyscope.stores.objects import Objects
from bathyscope.stores.rows import SegmentReader
from bathyscope.stores.streaming import Streaming

role, url, name = sys.argv[1:]
objects = Objects(url)
stream = Streaming(objects, SEGMENT)

def produce():
    # The held-out units first: they stay, so they must have room.
    mine = [u for u in (20, 21, *range(20)) if u % 2 == int(name)]
    while mine:
        if stream.reserve(mine[:1]):
            stream.written({{mine[0]: write(objects, mine[0])}})
            mine.pop(0)
        else:
            stream.retire()
            time.sleep(0.01)

def consume():
    seen = set()
    while len(seen) < 20:
        reader = SegmentReader(objects, SEGMENT)
        new = [u for u in reader.units if u.split == "train" and u.index not in seen]
        for unit in new:
            assert (reader.read("x", unit) == unit.index + 1).all(), unit
            seen.add(unit.index)
        stream.passed(name, [u.index for u in new])
        time.sleep(0.01)
    stream.leave(name)

produce() if role == "produce" else consume()
"""


def start(role, url, name):
    program = _PROGRAM.format(tests=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", program, role, url, str(name)])


@pytest.mark.parametrize("killed", ["nobody", "a consumer", "a producer"])
def test_processes_stream_through_a_small_store(disk, killed):
    create_segment(disk, SEGMENT)
    stream = Streaming(disk, SEGMENT)
    limit = 6 * UNIT
    stream.limit(limit)
    stream.register("alive", seconds=60)
    stream.register("dead", seconds=2 if killed == "a consumer" else 60)
    running = {
        "alive": start("consume", disk.url, "alive"),
        "dead": start("consume", disk.url, "dead"),
        "even": start("produce", disk.url, 0),
        "odd": start("produce", disk.url, 1),
    }
    if killed == "a consumer":
        dead = running.pop("dead")
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait()
    most = 0
    end = time.monotonic() + 120
    for turn in itertools.count():
        sizes = [size for key, size in disk.walk("x/seg") if "/c." in key]
        most = max(most, sum(sizes))
        if killed == "a producer" and turn == 20:
            running["odd"].kill()
            running["odd"].wait()
            running["odd"] = start("produce", disk.url, 1)
        if all(p.poll() is not None for p in running.values()):
            break
        assert time.monotonic() < end
        time.sleep(0.01)

    assert [p.returncode for p in running.values()] == [0] * len(running)
    stream.retire()
    assert 0 < most <= limit
    assert stream.retired().tolist() == list(range(20))
    assert [u.index for u in SegmentReader(disk, SEGMENT).units] == [20, 21]
    assert stream.held_bytes() <= 2 * UNIT
