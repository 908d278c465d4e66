"""Replicas of several processes: the bytes of one process, and deaths that lose nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray_nodes
from ray.cluster_utils import Cluster as RayNodes

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import ModelError, NonFiniteError
from bathyscope.jobs.cluster import Cluster
from bathyscope.jobs.sink import Silent
from bathyscope.stages import encode, harvest, train
from support import changed, listing

pytestmark = [
    pytest.mark.cluster,
    # Ray's own subprocess pipes are closed by the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

# The tiny model has four blocks: two processes hold two each.
POINTS = ["resid_post.3", "mlp_out.0", "resid_post.1"]


@pytest.fixture
def config(tiny_config: Callable[..., Config], tmp_path: Path) -> Config:
    config = tiny_config(
        tmp_path / "run",
        cluster__workers=1,
        cluster__threads=1,
        hooks__points=POINTS,
        dictionary__hook="resid_post.3",
    )
    run_stages(config, stages=["corpus"])
    return changed(config, cluster__kind="local", cluster__replica="pipeline", cluster__stages=2)


@pytest.fixture
def expected(config: Config, tiny_config: Callable[..., Config], tmp_path: Path) -> Config:
    """The same run in one process, harvested."""
    inline = changed(
        config, url=str(tmp_path / "inline"), cluster__kind="inline", cluster__replica="accelerate"
    )
    run_stages(inline, stages=["corpus", "harvest"])
    return inline


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    made = ray_nodes.start_head()
    yield made
    made.shutdown()


def rows(config: Config) -> dict[str, bytes]:
    """Shards and manifests: everything but who wrote it when."""
    stored = listing(Path(config.url) / "activations.zarr")
    return {key: data for key, data in stored.items() if "receipts" not in key}


class Watched(Silent):
    """Kills one process of the replica when a unit is done, and remembers notes."""

    def __init__(self, cluster: Cluster, rank: int | None = None) -> None:
        self.cluster = cluster
        self.rank = rank
        self.notes: list[str] = []

    def progress(self, done: float, text: str) -> None:
        if done >= 1 and self.rank is not None:
            (replica,) = self.cluster.replicas()
            os.kill(replica.places[self.rank].pid, signal.SIGKILL)
            self.rank = None

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_two_processes_write_the_bytes_of_one_and_the_first_does_the_other_stages(
    config: Config, expected: Config
) -> None:
    cluster = Cluster(changed(config, cluster__audit=1.0))
    sink = Watched(cluster)
    try:
        cluster.drive(harvest, sink)
        (replica,) = cluster.replicas()
        assert len({place.pid for place in replica.places.values()}) == 2
        assert rows(config) == rows(expected)
        cluster.drive(train, sink)
        facts = cluster.drive(encode, sink)
    finally:
        cluster.close()
    assert facts["rows"] > 9_000
    assert sink.notes == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_is_replaced_with_its_whole_replica(
    config: Config, expected: Config, rank: int
) -> None:
    cluster = Cluster(config)
    sink = Watched(cluster, rank)
    try:
        cluster.drive(harvest, sink)
    finally:
        cluster.close()
    assert sink.rank is None, "it was killed"
    assert sink.notes, "somebody was told"
    assert rows(config) == rows(expected)


def test_a_process_without_hook_points_passes_hidden_states_on(
    config: Config, expected: Config, tmp_path: Path
) -> None:
    late = {"hooks__points": ["resid_post.3"], "dictionary__hook": None}
    mine = changed(config, url=str(tmp_path / "late"), **late)
    theirs = changed(expected, url=str(tmp_path / "late_inline"), **late)
    run_stages(theirs, stages=["corpus", "harvest"])
    run_stages(
        changed(mine, cluster__kind="inline", cluster__replica="accelerate"), stages=["corpus"]
    )
    cluster = Cluster(mine)
    try:
        cluster.drive(harvest, Silent())
    finally:
        cluster.close()
    assert rows(mine) == rows(theirs)


def test_processes_on_two_nodes_are_one_replica(
    config: Config, expected: Config, nodes: RayNodes
) -> None:
    for _ in range(2):
        ray_nodes.add_node(nodes)
    there = changed(config, cluster__kind="address", cluster__address=nodes.address)
    cluster = Cluster(there)
    try:
        cluster.drive(harvest, Silent())
        (replica,) = cluster.replicas()
        assert len(replica.nodes) == 2
    finally:
        cluster.close()
    assert rows(config) == rows(expected)


def test_an_error_of_any_process_arrives_as_it_was_raised(
    config: Config, broken_model: Path, tmp_path: Path
) -> None:
    broken = changed(config, model__path=str(broken_model), url=str(tmp_path / "broken"))
    run_stages(
        changed(broken, cluster__kind="inline", cluster__replica="accelerate"), stages=["corpus"]
    )
    cluster = Cluster(broken)
    try:
        with pytest.raises(NonFiniteError, match=r"resid_post"):
            cluster.drive(harvest, Silent())
    finally:
        cluster.close()


def test_more_processes_than_blocks_are_refused(config: Config) -> None:
    cluster = Cluster(changed(config, cluster__stages=5))
    try:
        with pytest.raises(ModelError, match="4 blocks cannot be spread over 5 stages"):
            cluster.drive(harvest, Silent())
    finally:
        cluster.close()
