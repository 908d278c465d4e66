"""Metrics of a real local cluster, read from where Prometheus reads them."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from socket import gethostname

import deadly_stage
import pytest
import ray

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import JobError
from bathyscope.jobs.cluster import Cluster
from bathyscope.jobs.cluster_metrics import Stored, stored
from bathyscope.jobs.metric_names import (
    BYTES,
    METRICS,
    QUEUE_DEPTH,
    RETRIES,
    STALL_SECONDS,
    TOKENS,
    UNITS_DONE,
    UNITS_TOTAL,
    MetricName,
)
from bathyscope.jobs.sink import Silent
from bathyscope.runs.run import Run
from bathyscope.stages import harvest, train
from bathyscope.values import Receipt, ShardRecord
from support import changed

cluster_test = pytest.mark.cluster
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
PATIENCE_S = 60.0
OF_RAYS_AGENT = ("aiohttp", "aiohttp_cors", "opencensus", "opentelemetry", "prometheus_client")
"""Packages of ray[default] that plain `ray` does not install."""


class Killing(Silent):
    """Kills a worker with SIGKILL when a unit is done and others are under way."""

    def __init__(self) -> None:
        self.cluster: Cluster | None = None
        self.notes: list[str] = []

    def progress(self, done: float, text: str) -> None:
        if done >= 1 and self.cluster is not None:
            os.kill(self.cluster.worker_pids()[0], signal.SIGKILL)
            self.cluster = None

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def config(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Config:
    # Every ten seconds otherwise.
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "2000")
    config = tiny_config(tmp_path / "counted", cluster__workers=1)
    run_stages(config, stages=["corpus"])
    return changed(config, cluster__kind="local")


@pytest.fixture
def cluster(config: Config) -> Iterator[Cluster]:
    made = Cluster(changed(config, cluster__audit=1.0))
    yield made
    made.close()


def scraped() -> str:
    """What the metrics endpoint of this node says."""
    [node] = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def sums(text: str, name: MetricName, stage: str) -> float | None:
    """A metric of a stage of this run, over processes; None where there is none."""
    found = []
    for labels, value in re.findall(rf"^{name.exported}{{(.*?)}} (\S+)$", text, re.MULTILINE):
        known = dict(re.findall(r'(\w+)="(.*?)"', labels))
        assert known["NodeAddress"], "Ray names the node"
        assert name.tags != TOKENS.tags or known["host"] == gethostname()
        if (known["run"], known["stage"]) == ("counted", stage):
            found.append(float(value))
    return sum(found) if found else None


def awaited(wanted: Mapping[MetricName, float | None], stage: str) -> str:
    """The answer of the endpoint when it has said all of that; an error where it never does.

    Not always in one answer: a gauge of a stage that is over goes away.
    """
    until, left = time.monotonic() + PATIENCE_S, dict(wanted)
    while True:
        text = scraped()
        got = {name: sums(text, name, stage) for name in left}
        left = {name: value for name, value in left.items() if got[name] != value}
        if not left:
            return text
        assert time.monotonic() < until, got
        time.sleep(0.3)


@cluster_test
def test_what_a_run_stored_is_exported_though_units_were_audited_and_a_worker_killed(
    cluster: Cluster, config: Config
) -> None:
    sink = Killing()
    sink.cluster = cluster
    facts = cluster.drive(harvest, sink)
    assert sink.cluster is None, "it was killed"
    assert not any("exported" in note for note in sink.notes)
    units = Run(config.url).manifest("activations.zarr").segments[0].plan.num_units
    counted = {TOKENS: facts["rows"], BYTES: facts["bytes"]}
    text = awaited(
        {**counted, UNITS_TOTAL: units, UNITS_DONE: units, QUEUE_DEPTH: 0}, stage="harvest"
    )
    assert 1 <= (sums(text, RETRIES, "harvest") or 0) <= 2, "two units of it were under way, or one"
    assert (sums(text, STALL_SECONDS, "harvest") or 0) >= 0
    for name in METRICS:
        assert f"# TYPE {name.exported} {name.kind}" in text.splitlines()
        assert f"# HELP {name.exported} {name.help}" in text.splitlines()

    # Training is one unit, and stores no rows. What was counted before it stays as it is.
    cluster.drive(train, sink)
    text = awaited({UNITS_TOTAL: 1, UNITS_DONE: 1}, stage="train")
    assert sums(text, TOKENS, "train") is None
    assert sums(text, QUEUE_DEPTH, "train") is None
    assert {name: sums(text, name, "harvest") for name in counted} == counted
    awaited({UNITS_DONE: None, UNITS_TOTAL: None, QUEUE_DEPTH: None}, stage="harvest")


@cluster_test
def test_units_of_a_stage_that_failed_are_exported_no_more(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(deadly_stage.__file__).parent))
    cluster = Cluster(changed(config, cluster__max_failures=1, data__train_tokens=3))
    try:
        with pytest.raises(JobError, match="Unit 0 failed 2 times"):
            cluster.drive(deadly_stage, Silent())
        awaited({RETRIES: 2, UNITS_TOTAL: 3}, stage="noop")
        awaited({UNITS_TOTAL: None, UNITS_DONE: None}, stage="noop")
    finally:
        cluster.close()


def hide(packages: Iterable[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if packages were not installed, in this process and in those that it starts."""
    folder.mkdir()
    for package in packages:
        text = f"raise ModuleNotFoundError('hidden', name={package!r})\n"
        (folder / f"{package}.py").write_text(text, encoding="utf-8")
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "ray.dashboard.optional_deps", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))


@cluster_test
def test_without_rays_agent_a_run_goes_on_and_says_once_that_nothing_is_exported(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(OF_RAYS_AGENT, tmp_path / "hidden", monkeypatch)
    cluster, sink = Cluster(config), Killing()
    try:
        facts = cluster.drive(harvest, sink)
        cluster.drive(train, sink)
    finally:
        cluster.close()
    assert facts["rows"] > 0
    said = [note for note in sink.notes if "exported" in note]
    assert said == [
        f"no metrics are exported on {gethostname()}: install ray[default] there "
        "(pip install 'bathyscope[cluster]') to have them"
    ]


def test_a_unit_counts_as_its_receipt_says() -> None:
    shards = tuple(ShardRecord(f"c.{i}", size, "", "") for i, size in enumerate((100, 23)))
    writer = {"host": "node-3", "pid": 17}
    receipt = Receipt(unit=0, term=1, valid=512, shards=shards, writer=writer)
    assert stored(receipt) == Stored("node-3", 17, tokens=512, bytes=123)
    # Of a training run, or a study: `valid` is no number of rows.
    assert stored(Receipt(unit=0, term=1, valid=1)) == Stored("", 0, tokens=0, bytes=0)
