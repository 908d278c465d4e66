"""Nodes that come, go, get their notice, or are not fit to work: real raylets on one machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_nodes
import sleepy_stage
from ray.cluster_utils import Cluster as RayNodes

from bathyscope.config import Config
from bathyscope.errors import JobError, ModelError
from bathyscope.jobs.cluster import Cluster
from bathyscope.jobs.sink import Silent
from bathyscope.runs.work import Begun
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.stored_receipts import StoredReceipts
from support import changed

pytestmark = [
    pytest.mark.cluster,
    # Ray's own subprocess pipes are closed by the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SUPPORT = str(Path(sleepy_stage.__file__).parent)
UNITS = 40


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    made = ray_nodes.start_head()
    yield made
    made.shutdown()


@pytest.fixture
def drive(
    nodes: RayNodes, tiny_config: Callable[..., Config], tmp_path: Path
) -> Callable[..., Watched]:
    """Drives the sleepy stage over the nodes."""

    def run(at: dict[int, Callable[[Cluster], Any]] | None = None, **settings: Any) -> Watched:
        config = tiny_config(
            tmp_path / "run",
            cluster__kind="address",
            cluster__address=nodes.address,
            cluster__workers=2,
            cluster__threads=1,
            data__train_tokens=UNITS,
        )
        cluster = Cluster(changed(config, **settings))
        watched = Watched(cluster, at or {})
        try:
            cluster.drive(sleepy_stage, watched)
        finally:
            cluster.close()
        return watched

    return run


class Watched(Silent):
    """Does something when so many units are done, and remembers notes and who did what."""

    def __init__(self, cluster: Cluster, at: dict[int, Callable[[Cluster], Any]]) -> None:
        self.cluster = cluster
        self.at = dict(at)
        self.notes: list[str] = []

    def begin(self, begun: Begun) -> None:
        self.receipts = Receipts(begun.objects, begun.work.segment.name)

    def progress(self, done: float, text: str) -> None:
        for units in [u for u in self.at if u <= done]:
            self.at.pop(units)(self.cluster)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def done_by(self) -> dict[int, list[int]]:
        """Process -> units, in order."""
        found: dict[int, list[int]] = {}
        for unit, receipt in sorted(StoredReceipts(self.receipts).items()):
            found.setdefault(int(receipt.writer["pid"]), []).append(unit)
        return found


def node_of(cluster: Cluster, number: int = 0) -> str:
    """Ray's name of a worker's node."""
    assert cluster._fleet is not None
    place = cluster._fleet.ready[number].place
    assert place is not None
    return place.node


def test_the_first_worker_begins_and_a_later_node_joins(
    nodes: RayNodes, drive: Callable[..., Watched]
) -> None:
    ray_nodes.add_node(nodes, PYTHONPATH=SUPPORT)

    watched = drive({3: lambda _: ray_nodes.add_node(nodes, PYTHONPATH=SUPPORT)})

    by = watched.done_by()
    assert sorted(u for units in by.values() for u in units) == list(range(UNITS))
    # How many units are left for the second one depends on how long it takes to start.
    assert len(by) == 2
    assert watched.notes == []


def test_a_drained_node_gets_no_more_units_and_its_long_unit_is_done_elsewhere(
    nodes: RayNodes, drive: Callable[..., Watched]
) -> None:
    for _ in range(2):
        ray_nodes.add_node(nodes, PYTHONPATH=SUPPORT)

    def drain_holder_of_long_unit(cluster: Cluster) -> None:
        # The other worker goes on with the units behind it.
        holders = [
            r for r in cluster._fleet.ready if sleepy_stage.LONG_UNIT in units_of(cluster, r)
        ]
        assert holders, "both workers are ready, and one of them has the long unit"
        drained.append(holders[0].place.pid)
        ray_nodes.drain(nodes, holders[0].place.node, seconds=2.0)

    drained: list[int] = []
    watched = drive({12: drain_holder_of_long_unit})

    by = watched.done_by()
    assert sorted(u for units in by.values() for u in units) == list(range(UNITS))
    (gone,) = drained
    assert sleepy_stage.LONG_UNIT not in by.get(gone, [])
    assert all(unit < sleepy_stage.LONG_UNIT for unit in by.get(gone, []))
    assert any(
        re.search(rf"is going away before unit {sleepy_stage.LONG_UNIT} is done", note)
        for note in watched.notes
    )


def units_of(cluster: Cluster, replica: Any) -> list[int]:
    """The units that a worker has now."""
    assert cluster._loop is not None
    return cluster._loop.units_of(replica)


def test_a_node_with_other_versions_is_not_used_and_named(
    nodes: RayNodes, drive: Callable[..., Watched], tmp_path: Path
) -> None:
    other = tmp_path / "other" / "numpy-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    ray_nodes.add_node(nodes, PYTHONPATH=f"{SUPPORT}:{other.parent}")

    with pytest.raises(JobError, match=r"numpy 0\.0\.1 \(driver: .*install the same"):
        drive(data__train_tokens=6)

    ray_nodes.add_node(nodes, PYTHONPATH=SUPPORT)
    watched = drive(data__train_tokens=6)
    assert len(watched.done_by()) == 1
    assert any(re.search(r"is not used: The worker on .* numpy 0\.0\.1", n) for n in watched.notes)


def test_a_node_without_the_checkpoint_is_not_used(
    nodes: RayNodes, drive: Callable[..., Watched]
) -> None:
    lacking = {"PYTHONPATH": SUPPORT, sleepy_stage.NO_CHECKPOINT: "1"}
    ray_nodes.add_node(nodes, **lacking)
    with pytest.raises(ModelError, match="is no model folder"):
        drive(data__train_tokens=6)

    ray_nodes.add_node(nodes, PYTHONPATH=SUPPORT)
    watched = drive(data__train_tokens=6)

    assert [*watched.done_by().values()] == [list(range(6))]
    assert any("is not used: '/models/llama' is no model folder" in n for n in watched.notes)
