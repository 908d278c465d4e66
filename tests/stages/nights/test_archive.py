"""Nights that were let go, in one file: nothing is lost, whenever a stop comes."""

from __future__ import annotations

from pathlib import Path

from bathyscope.runs.nights import archived_nights
from bathyscope.stages.nights.archive import archive_older
from bathyscope.stores.manifests import COMPLETE, OPEN, Manifest, every, latest, publish
from bathyscope.stores.objects import Objects


def nights_of(folder: Path, number: int) -> Objects:
    """A folder with some nights, each with an open and a complete manifest."""
    objects = Objects(str(folder))
    for night in range(1, number + 1):
        publish(objects, Manifest(OPEN, {}, (), {"night": night, "agenda": {}}))
        facts = {"night": night, "told": f"told {night}", "failed": {}, "ledger_key": "long gone"}
        publish(objects, Manifest(COMPLETE, {}, (), facts))
    return objects


def numbers(objects: Objects) -> list[int]:
    return [manifest.number for manifest in every(objects)]


def test_both_manifests_of_a_night_go_and_a_line_stays(tmp_path: Path) -> None:
    objects = nights_of(tmp_path, 5)
    archive_older(objects, 3)
    assert numbers(objects) == [10, 9, 8, 7]
    lines = archived_nights(objects)
    assert [(line["night"], line["told"]) for line in lines] == [
        (1, "told 1"),
        (2, "told 2"),
        (3, "told 3"),
    ]
    assert "ledger_key" not in lines[0]
    newest = latest(objects)
    assert newest is not None
    assert publish(objects, Manifest(OPEN, {}, (), {"night": 6})).number == newest.number + 1


def test_a_stop_before_manifests_are_removed_loses_and_doubles_nothing(tmp_path: Path) -> None:
    objects = nights_of(tmp_path, 4)
    kept = {f"manifests/{n:08d}.json": objects.get(f"manifests/{n:08d}.json") for n in range(1, 9)}
    archive_older(objects, 2)
    for key, data in kept.items():
        objects.put(key, data)
    archive_older(objects, 3)
    assert [line["night"] for line in archived_nights(objects)] == [1, 2, 3]
    assert numbers(objects) == [8, 7]


def test_with_nothing_old_nothing_is_written(tmp_path: Path) -> None:
    objects = nights_of(tmp_path, 2)
    archive_older(objects, 0)
    assert numbers(objects) == [4, 3, 2, 1]
    assert archived_nights(objects) == []
    assert not (tmp_path / "archive.jsonl").exists()


def test_a_night_that_was_never_published_leaves_no_line(tmp_path: Path) -> None:
    objects = nights_of(tmp_path, 2)
    publish(objects, Manifest(OPEN, {}, (), {"night": 3, "agenda": {}}))
    publish(objects, Manifest(COMPLETE, {}, (), {"night": 4, "told": "told 4"}))
    archive_older(objects, 3)
    assert [line["night"] for line in archived_nights(objects)] == [1, 2]
    assert numbers(objects) == [6]
