"""A worker without Ray: several units in one call, and what a failure among them leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import noop_stage
import pytest

from bathyscope.config import Config
from bathyscope.errors import StoreError
from bathyscope.jobs.cluster_worker import StageJob, Worker
from bathyscope.jobs.schedule import Task
from bathyscope.runs.work import Work, begin
from bathyscope.stages.stage import Outcome
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.values import Unit
from support import changed


@pytest.fixture
def job(tiny_config: Callable[..., Config], tmp_path: Path) -> StageJob:
    config = changed(tiny_config(tmp_path / "run"), data__train_tokens=8)
    work = noop_stage.units(config)
    begin(Objects(config.url), work, force=False)
    return StageJob("noop_stage", config, work)


@pytest.fixture
def worker(job: StageJob) -> Worker:
    made = Worker(threads=1, workers=1)
    made.prepare(job)
    return made


def receipts(work: Work, url: str) -> Receipts:
    return Receipts(Objects(url).at(work.artifact), work.segment.name)


@pytest.fixture
def disk_full_at_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(unit: Unit, context: object, guard: object) -> Outcome:
        if unit.index == 3:
            raise StoreError("disk full")
        return Outcome(valid=1)

    monkeypatch.setattr(noop_stage, "run", run)


def test_every_unit_of_a_call_has_its_receipt_and_its_time(worker: Worker, job: StageJob) -> None:
    did = worker.run([Task(2), Task(5)])
    assert [d.done for d in did] == [True, True]
    assert all(0 < d.seconds < 5 for d in did)
    found = receipts(job.work, job.config.url)
    assert [found.get(unit) is not None for unit in range(8)] == [
        unit in (2, 5) for unit in range(8)
    ]


def test_no_units_are_none(worker: Worker) -> None:
    assert worker.run([]) == []


@pytest.mark.usefixtures("disk_full_at_3")
def test_an_error_ends_the_call_and_is_raised_by_the_unit_alone(
    worker: Worker, job: StageJob
) -> None:
    assert len(worker.run([Task(2), Task(3), Task(4)])) == 1
    with pytest.raises(StoreError, match="disk full"):
        worker.run([Task(3), Task(4)])
    found = receipts(job.work, job.config.url)
    assert found.get(2) is not None
    assert found.get(4) is None, "the driver gives it out again"


def test_a_worker_that_opened_a_later_stage_keeps_it(worker: Worker, job: StageJob) -> None:
    later = StageJob(job.stage, job.config, job.work, number=2)
    worker.prepare(later)
    worker.prepare(StageJob("no_such_module", job.config, job.work, number=1))
    assert worker.run([Task(0)])[0].done
