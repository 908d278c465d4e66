"""The Ray driver, on a real local cluster: same bytes as inline, and deaths that lose nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import deadly_stage
import noop_stage
import pytest

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import IdentityMismatch, JobError, NonFiniteError
from bathyscope.jobs.cluster import Cluster
from bathyscope.jobs.cluster_worker import with_absolute_paths
from bathyscope.jobs.sink import Silent
from bathyscope.runs.work import Begun
from bathyscope.stages import encode, harvest, train
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.stored_receipts import StoredReceipts
from support import changed, listing

pytestmark = [
    pytest.mark.cluster,
    # Ray's own subprocess pipes are closed by the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def config(tiny_config: Callable[..., Config], tmp_path: Path) -> Config:
    config = tiny_config(tmp_path / "run", cluster__workers=1)
    run_stages(config, stages=["corpus"])
    return changed(config, cluster__kind="local")


@pytest.fixture
def cluster(config: Config) -> Iterator[Cluster]:
    made = Cluster(config)
    yield made
    made.close()


class KillOnce(Silent):
    """Kills the worker with SIGKILL when a unit is done and others are under way."""

    def __init__(self, cluster: Cluster, times: int = 1, after: int = 1) -> None:
        self.cluster = cluster
        self.left = times
        self.after = after
        self.notes: list[str] = []

    def progress(self, done: float, text: str) -> None:
        if done >= self.after and self.left:
            self.left -= 1
            os.kill(self.cluster.worker_pids()[0], signal.SIGKILL)

    def note(self, text: str) -> None:
        self.notes.append(text)


def artifacts(config: Config) -> dict[str, bytes]:
    """Shards, weights and manifests: everything but who wrote it when."""
    found = {}
    for folder in ("activations.zarr", "latents.zarr", "dictionaries"):
        for key, data in listing(Path(config.url) / folder).items():
            if "receipts" not in key:
                found[f"{folder}/{key}"] = data
    return found


def test_bytes_equal_those_of_the_inline_driver_though_a_worker_was_killed(
    cluster: Cluster, config: Config, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    sink = KillOnce(cluster)
    cluster.drive(harvest, sink)
    # Two units of the worker were under way, or one. A slow machine also says that it waits.
    said = [note for note in sink.notes if "died" in note]
    assert len(said) in (1, 2)
    assert all("another one takes it over" in note for note in said)
    for stage in (train, encode):
        cluster.drive(stage, Silent())
    inline = tiny_config(tmp_path / "inline")
    run_stages(inline, stages=["corpus", "harvest", "train", "encode"])
    mine, theirs = artifacts(config), artifacts(inline)
    assert mine.keys() == theirs.keys()
    assert mine == theirs


class StopOnce(Silent):
    """Stops a worker with SIGSTOP that has just done a unit and gets more; never wakes it."""

    def __init__(self) -> None:
        self.stopped = 0
        self.notes: list[str] = []

    def begin(self, begun: Begun) -> None:
        self.receipts = Receipts(begun.objects, begun.work.segment.name)

    def progress(self, done: float, text: str) -> None:
        # The median of three is known then, and half of the units are left.
        if not self.stopped and done >= 4:
            last = max(StoredReceipts(self.receipts).values(), key=lambda r: r.unit)
            self.stopped = int(last.writer["pid"])
            os.kill(self.stopped, signal.SIGSTOP)

    def note(self, text: str) -> None:
        self.notes.append(text)


def warm(cluster: Cluster, config: Config, workers: int) -> None:
    """See to it that so many workers have started, so that all get units of the next stage."""
    turn = 0
    while len(cluster.worker_pids()) < workers:
        turn += 1
        url = f"{config.url}-warm-{turn}"
        cluster.drive(noop_stage, Silent(), changed(config, url=url, data__train_tokens=20))


def test_a_worker_that_hangs_is_given_up_and_its_unit_done_by_another(
    config: Config,
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(noop_stage.__file__).parent))
    hanging = Cluster(
        changed(
            config,
            cluster__workers=2,
            cluster__straggler_least_s=2.0,
            cluster__straggler_factor=2.0,
        )
    )
    sink = StopOnce()
    try:
        warm(hanging, config, workers=2)
        hanging.drive(harvest, sink)
        assert sink.stopped
        assert sink.stopped not in hanging.worker_pids()
    finally:
        hanging.close()
    # The first when the other worker is ready by then, the second when it still opens the stage.
    told = ("another worker does it too", "a worker hangs on unit")
    assert any(text in note for text in told for note in sink.notes)
    inline = tiny_config(tmp_path / "inline")
    run_stages(inline, stages=["corpus", "harvest"])
    assert artifacts(config) == artifacts(inline)


def test_the_only_worker_is_replaced_when_it_hangs(config: Config) -> None:
    lonely = Cluster(changed(config, cluster__straggler_least_s=0.7, cluster__straggler_factor=1.0))
    sink = StopOnce()
    try:
        lonely.drive(harvest, sink)
        assert sink.stopped not in lonely.worker_pids()
    finally:
        lonely.close()
    assert any("hangs on unit" in note for note in sink.notes)


def test_a_unit_that_kills_its_workers_stops_the_run(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(deadly_stage.__file__).parent))
    cluster = Cluster(changed(config, cluster__max_failures=1, data__train_tokens=3))
    sink = KillOnce(cluster, times=0)
    try:
        with pytest.raises(JobError, match=r"Unit 0 failed 2 times, the last time: its worker die"):
            cluster.drive(deadly_stage, sink)
    finally:
        cluster.close()
    assert sink.notes == ["a worker died on unit 0; another one takes it over"] * 2


def test_a_worker_that_dies_on_several_short_units_loses_none(
    cluster: Cluster, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(noop_stage.__file__).parent))
    sink = KillOnce(cluster, after=100)
    facts = cluster.drive(noop_stage, sink, changed(config, data__train_tokens=400))
    assert facts == {"units": 400}
    # Those that had no receipt yet are named together.
    assert any(note.startswith("a worker died on unit ") and "," in note for note in sink.notes)


def test_errors_of_a_worker_arrive_as_they_were_raised(
    config: Config, broken_model: Path, tmp_path: Path
) -> None:
    broken = changed(config, model__path=str(broken_model), url=str(tmp_path / "broken"))
    run_stages(changed(broken, cluster__kind="inline"), stages=["corpus"])
    cluster = Cluster(broken)
    try:
        with pytest.raises(NonFiniteError, match=r"resid_post\.1"):
            cluster.drive(harvest, Silent())
    finally:
        cluster.close()


def test_workers_that_cannot_open_the_stage_stop_the_run_when_too_few_slots_are_left(
    config: Config,
) -> None:
    cluster = Cluster(changed(config, cluster__max_failures=1, data__train_tokens=3))
    sink = KillOnce(cluster, times=0)
    try:
        # No worker can import it: its folder is not on their path.
        with pytest.raises(JobError, match=r"2 workers died.*No module named 'deadly_stage'"):
            cluster.drive(deadly_stage, sink)
    finally:
        cluster.close()
    assert sink.notes == ["2 workers of one slot died in a row; 0 slots are left"]


def test_a_run_that_is_up_to_date_or_refused_starts_no_ray(
    finished_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*args: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("bathyscope.jobs.cluster.start_ray", started)
    cluster = Cluster(changed(finished_config, cluster__kind="local"))
    assert cluster.drive(harvest, Silent()) == {}
    other = Cluster(changed(finished_config, cluster__kind="local", hooks__batch_items=2))
    with pytest.raises(IdentityMismatch, match=r"batch_items: 4 -> 2"):
        other.drive(harvest, Silent())
    cluster.close()
    other.close()


def test_paths_are_absolute_for_workers_with_another_folder(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(tiny_config("runs/a", data__paths=["text.jsonl"]))
    assert config.url == str(tmp_path / "runs/a")
    assert config.data.paths == [str(tmp_path / "text.jsonl")]
    assert with_absolute_paths(changed(config, url="s3://bucket/run")).url == "s3://bucket/run"


def test_a_worker_of_another_version_is_refused(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bathyscope.jobs.cluster_fleet.versions", lambda: {"torch": "0.1"})
    cluster = Cluster(config)
    try:
        with pytest.raises(JobError, match=r"torch .* \(driver: 0\.1\)"):
            cluster.drive(harvest, Silent())
    finally:
        cluster.close()


def test_a_local_cluster_stays_apart_from_others(
    config: Config, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray joins this, like the cluster of another run on the machine, when it may choose.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    facts = cluster.drive(harvest, Silent())
    assert facts["rows"] > 0
