"""Ray of a job: a folder and a namespace of its own, and what is left of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.jobs.cluster import Cluster
from bathyscope.jobs.cluster_ray import start_ray, stop_ray
from bathyscope.jobs.sink import Silent
from bathyscope.stages import harvest
from support import changed

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Short, since paths of sockets have an end: that of a test is too long."""
    with tempfile.TemporaryDirectory(prefix="r") as made:
        monkeypatch.setenv("RAY_TMPDIR", made)
        yield Path(made)


def test_nothing_is_left_of_a_job_that_went_well(
    tiny_config: Callable[..., Config], tmp_path: Path, place: Path
) -> None:
    config = tiny_config(tmp_path / "run", cluster__workers=1)
    run_stages(config, stages=["corpus"])
    cluster = Cluster(changed(config, cluster__kind="local"))
    try:
        cluster.drive(harvest, Silent())
        [folder] = place.iterdir()
        assert any(folder.glob("session_*/logs/*"))
        assert ray.get_runtime_context().namespace.startswith("bathyscope-")
    finally:
        cluster.close()
    assert list(place.iterdir()) == []


def test_logs_stay_after_a_failure(
    place: Path,
    caplog: pytest.LogCaptureFixture,
    tiny_config: Callable[..., Config],
    tmp_path: Path,
) -> None:
    config = tiny_config(tmp_path / "run", cluster__workers=1)
    folder = start_ray(changed(config, cluster__kind="local").cluster)
    assert folder is not None
    stop_ray(folder, failed=True)
    assert any(folder.glob("session_*/logs/*"))
    assert str(folder) in caplog.text


def test_a_cluster_without_the_gpus_that_are_wanted_is_stopped(
    place: Path, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path / "run", cluster__workers=1)
    settings = changed(config, cluster__kind="local", cluster__gpus_per_worker=8).cluster
    with pytest.raises(ConfigError, match=r"cluster\.gpus_per_worker is 8, but Ray finds 0 GPUs"):
        start_ray(settings)
    assert not ray.is_initialized()
    assert list(place.iterdir()) == []
