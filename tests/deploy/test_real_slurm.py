"""The batch script under Debian's Slurm, on two nodes that this machine plays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from deploy_files import DEPLOY, ROOT, WHOLE, missing
from deploy_jobs import PROGRAMS, shards, waiting_driver, words_of
from fake_nodes import FakeNodes, why_not
from real_slurm import RealSlurm, is_unpacked

SCRIPT = DEPLOY / "slurm" / "bathyscope.sbatch"
SMALL_JOB = ("--nodes=2", "--cpus-per-task=1", "--gpus-per-node=0", "--time=5")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not WHOLE, reason="takes a minute: `make deploy-check`"),
    # Daemons end with their nodes, and nobody waits for them.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def slurm(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSlurm]:
    if reason := why_not():
        missing(reason)
    if not is_unpacked():
        missing("Slurm is not unpacked; `make deploy-check` does it")
    with FakeNodes(tmp_path / "nodes", shared=tmp_path_factory.getbasetemp()) as nodes:
        yield RealSlurm(nodes, PROGRAMS)


def submit(slurm: RealSlurm, log: Path, *words: str, **settings: str) -> str:
    """The number of the job."""
    options = ("--parsable", f"--output={log}", f"--chdir={ROOT}", *SMALL_JOB)
    return slurm.call("sbatch", *options, str(SCRIPT), *words, **settings).strip()


def wait_for(slurm: RealSlurm, job: str, *states: str, seconds: float = 240) -> str:
    end = time.monotonic() + seconds
    found = ""
    while time.monotonic() < end:
        found = slurm.field(job, "JobState")
        if found in states:
            return found
        time.sleep(1)
    raise AssertionError(f"job {job} is {found}, not {states}\n{slurm.logs()}")


def test_a_harvest_has_the_bytes_of_one_process(
    slurm: RealSlurm, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path / "run", store__items_per_unit=8)
    run_stages(config, stages=["corpus"])
    log = tmp_path / "job.log"
    job = submit(slurm, log, "harvest", *words_of(config, tmp_path))
    state = wait_for(slurm, job, "COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")
    assert state == "COMPLETED", log.read_text()
    assert "On worker node. Connecting to Ray cluster" in log.read_text()
    inline = tiny_config(tmp_path / "inline", store__items_per_unit=8)
    run_stages(inline, stages=["corpus", "harvest"])
    assert shards(tmp_path / "run") == shards(tmp_path / "inline")


def test_a_notice_reaches_the_driver_and_slurm_requeues_the_job(
    slurm: RealSlurm, tmp_path: Path
) -> None:
    driver, is_up = waiting_driver(tmp_path)
    log = tmp_path / "job.log"
    job = submit(slurm, log, "run", "url=mine", BATHYSCOPE=str(driver), BATHYSCOPE_LAUNCH="classic")
    wait_for(slurm, job, "RUNNING")
    end = time.monotonic() + 120
    while time.monotonic() < end and not is_up.exists():
        time.sleep(0.5)
    # What `--signal=B:USR1@120` does before the time limit.
    slurm.call("scancel", "--signal=USR1", "--batch", job)
    wait_for(slurm, job, "PENDING")
    assert slurm.field(job, "Restarts") == "1"
    assert "the driver was told" in log.read_text()
    slurm.call("scancel", job)
