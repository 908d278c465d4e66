"""Progress: plain lines where there is no terminal, rates and times that are right."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bathyscope.commands.progress import Screen, duration, size
from bathyscope.runs.work import Begun, Work
from bathyscope.stores.objects import Objects
from bathyscope.values import UnitPlan


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def begun() -> Begun:
    plan = UnitPlan((("train", 0, 40),), 10)
    work = Work("harvest", "activations.zarr", {}, plan, rows_per_item=256)
    return Begun(work, Objects("memory://progress"), False, tuple(plan.units()))


def screen(clock: Clock, out: io.StringIO) -> Screen:
    return Screen(Console(file=out, force_terminal=False, width=200), clock=clock)


def test_lines_with_rate_and_time_left(begun: Begun) -> None:
    clock, out = Clock(), io.StringIO()
    shown = screen(clock, out)
    shown.begin(begun)
    clock.now += 10
    shown.progress(1.0, "")
    # 10 items of 256 tokens in 10 s; 3 of 4 units are left.
    assert out.getvalue() == "harvest    25 %  256 tokens/s  eta 30.0 s\n"
    clock.now += 5
    shown.progress(1.5, "")
    assert out.getvalue().count("\n") == 1
    clock.now += 25
    shown.end(begun, {"rows": 10240, "bytes": 12_345_678})
    last = out.getvalue().splitlines()[-1]
    assert last == "harvest   done in 40.0 s  256 tokens/s  10,240 rows, 12.3 MB"


def test_a_resumed_stage_counts_from_where_it_was(begun: Begun) -> None:
    clock, out = Clock(), io.StringIO()
    shown = screen(clock, out)
    shown.begin(Begun(begun.work, begun.objects, False, begun.remaining[2:]))
    assert "goes on: 2 of 4 units done" in out.getvalue()
    clock.now += 10
    shown.progress(3.0, "")
    assert "75 %  256 tokens/s  eta 10.0 s" in out.getvalue()


def test_nothing_to_do_and_notes_once(begun: Begun) -> None:
    out = io.StringIO()
    shown = screen(Clock(), out)
    shown.begin(Begun(begun.work, begun.objects, True, ()))
    shown.note("a worker died")
    shown.note("a worker died")
    assert out.getvalue() == "harvest   up to date\nnote: a worker died\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.42, "9.4 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.96, "60.0 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1.5e6, "1.5 MB"), (2e12, "2 TB"), (1e18, "1e+03 PB")],
)
def test_sizes(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text
