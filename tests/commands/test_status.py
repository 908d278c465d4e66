"""What a run says of itself, complete, under way and stopped, to whoever looks from elsewhere."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bathyscope.commands.run import run as run_stages
from bathyscope.commands.status import status
from bathyscope.config import Config
from bathyscope.errors import MissingArtifact, NonFiniteError
from bathyscope.runs.status import ArtifactStatus, UnitTime, statuses
from bathyscope.stages import harvest
from bathyscope.stores.objects import Objects
from support import changed, listing


def told(config: Config, at: float | None = None) -> list[str]:
    said: list[str] = []
    status(config, said.append, clock=lambda: time.time() if at is None else at)
    return said


def test_a_complete_run_is_told_artifact_by_artifact(finished_config: Config) -> None:
    before = listing(Path(finished_config.url))
    said = told(finished_config)
    assert said[0].startswith("last sign  ")
    assert "end report" in said[0]
    assert [line.split() for line in said[1:]] == [
        [name, "complete"]
        for name in (
            "activations.zarr",
            "corpus.zarr",
            "dictionaries/main",
            "evaluations/main",
            "features/main",
            "latents.zarr/main",
            "report",
        )
    ]
    assert listing(Path(finished_config.url)) == before


def test_a_run_that_stopped_tells_how_far_it_came_and_why(
    tiny_config: Callable[..., Config], tmp_path: Path, broken_model: Path
) -> None:
    config = tiny_config(tmp_path / "run", model__path=str(broken_model))
    with pytest.raises(NonFiniteError):
        run_stages(config, stages=("corpus", "harvest"))
    said = told(config)
    [under_way] = [line for line in said if line.startswith("activations.zarr")]
    assert re.search(r"0 of \d+ units, 0 %$", under_way)
    assert "failed harvest: NonFiniteError: Hook point resid_post.1" in said[-1]
    # Seen from another machine, which has the folder and nothing else.
    copy = shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert told(changed(config, url=str(copy)))[1:] == said[1:]


def test_rate_and_eta_are_those_of_the_receipts(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path / "run")
    run_stages(config, stages=("corpus", "harvest"))
    objects = Objects(config.url)
    work = harvest.units(config)
    manifests = sorted((tmp_path / "run" / "activations.zarr" / "manifests").iterdir())
    manifests[-1].unlink()
    for unit in range(work.plan.num_units - 2, work.plan.num_units):
        objects.delete(f"activations.zarr/receipts/{work.segment.name}/00000/{unit:08d}.json")
    [found] = [each for each in statuses(objects) if each.name == "activations.zarr"]
    assert not found.complete
    assert found.done == found.total - 2
    assert len(found.last) == found.done
    assert found.rate() is not None
    assert found.seconds_left() == pytest.approx(2 / (found.rate() or 1))
    assert all(unit.seconds > 0 for unit in found.last)


def unit(number: int, at: float, seconds: float) -> UnitTime:
    return UnitTime(number, at, seconds, "host", 1)


def test_rate_eta_and_slow_units_by_hand() -> None:
    last = tuple(unit(n, 10.0 * n, 30.0 if n == 3 else 5.0) for n in range(6))
    found = ArtifactStatus("a", "harvest", False, 6, 12, last=last)
    assert found.rate() == 0.1
    assert found.seconds_left() == pytest.approx(60.0)
    assert [each.unit for each in found.slowest(5)] == [3]
    assert found.slowest(0) == []
    few = ArtifactStatus("a", "harvest", False, 2, 12, last=last[:2])
    assert (few.rate(), few.seconds_left(), few.slowest(5)) == (None, None, [])
    at_once = ArtifactStatus("a", "harvest", False, 3, 12, last=(last[0],) * 3)
    assert at_once.rate() is None


def test_a_folder_that_is_no_run_is_refused(finished_config: Config, tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match="There is no folder"):
        status(changed(finished_config, url=str(tmp_path / "nothing")), print)
    with pytest.raises(MissingArtifact, match="holds no artifact"):
        status(changed(finished_config, url=str(tmp_path)), print)
