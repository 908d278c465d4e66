"""The event log: lines that come back, files that stay small, and a store that is away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bathyscope.errors import StoreError
from bathyscope.jobs.events import EVENTS, EventLog, Recorded, read_events
from bathyscope.jobs.sink import Silent
from bathyscope.stores.objects import Objects


def events(folder: Path) -> list[dict[str, object]]:
    return list(read_events(Objects(str(folder)), last_files=1000))


def test_lines_come_back_in_their_order(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path), clock=lambda: 86_400.25)
    log.add("note", step="harvest", text="größer\nals")
    log.add("failed", error=ValueError("x"))
    assert events(tmp_path) == [
        {"at": "1970-01-02T00:00:00.250+00:00", "event": "note", "step": "harvest",
         "text": "größer\nals"},
        {"at": "1970-01-02T00:00:00.250+00:00", "event": "failed", "error": "x"},
    ]  # fmt: skip
    [name] = Objects(str(tmp_path)).files(EVENTS)
    assert name.startswith("19700102T000000-")


def test_nothing_is_written_before_the_first_event(tmp_path: Path) -> None:
    EventLog(str(tmp_path))
    assert not (tmp_path / EVENTS).exists()


def test_a_new_file_is_begun_before_one_is_large(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    for number in range(30):
        log.add("note", text="x" * 20_000, number=number)
    sizes = [path.stat().st_size for path in (tmp_path / EVENTS).iterdir()]
    assert len(sizes) == 3
    assert max(sizes) <= 256 * 1024
    assert [event["number"] for event in events(tmp_path)] == list(range(30))


def test_only_the_last_files_of_many_commands_stay(tmp_path: Path) -> None:
    for second in range(80):
        EventLog(str(tmp_path), clock=lambda at=second: float(at)).add("note", number=second)
    kept = [event["number"] for event in events(tmp_path)]
    assert len(kept) == 65
    assert kept[-1] == 79


def test_a_store_that_is_away_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(str(tmp_path))
    put = Objects.put

    def away(*_: object, **__: object) -> None:
        raise StoreError("away")

    monkeypatch.setattr(Objects, "put", away)
    log.add("note", number=1)
    monkeypatch.setattr(Objects, "put", put)
    log.add("note", number=2)
    assert [event["number"] for event in events(tmp_path)] == [1, 2]


def test_a_line_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    EventLog(str(tmp_path)).add("note", number=1)
    [path] = (tmp_path / EVENTS).iterdir()
    path.write_bytes(path.read_bytes() + json.dumps({"event": "note"}).encode()[:-4])
    assert [event["number"] for event in events(tmp_path)] == [1]


def test_progress_is_noted_every_ten_seconds(tmp_path: Path) -> None:
    now = [0.0]
    sink = Recorded(Silent(), EventLog(str(tmp_path)), "harvest", clock=lambda: now[0])
    for second in range(35):
        now[0] = float(second)
        sink.progress(second / 10, f"{second} s")
    assert [event["done"] for event in events(tmp_path)] == [1.0, 2.0, 3.0]
