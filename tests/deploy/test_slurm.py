"""The batch script runs for real: its own `srun` steps, on two nodes that this machine plays."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import fake_slurm
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from deploy_files import DEPLOY, ROOT, WHOLE, missing
from deploy_jobs import PROGRAMS, shards, waiting_driver, words_of
from fake_nodes import FakeNodes, why_not

SCRIPT = DEPLOY / "slurm" / "bathyscope.sbatch"
SMALL_JOB = ("--nodes=2", "--cpus-per-task=1", "--gpus-per-node=0")
only_whole = pytest.mark.skipif(not WHOLE, reason="takes a minute: `make deploy-check`")

pytestmark = pytest.mark.cluster


@pytest.fixture
def slurm(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Submits the batch script on two nodes: `slurm("harvest", "url=…", BATHYSCOPE_LAUNCH=…)`."""
    if reason := why_not():
        missing(reason)
    folder = tmp_path / "nodes"
    folder.mkdir()
    started = []
    with FakeNodes(folder, shared=tmp_path_factory.getbasetemp()) as nodes:
        environment = fake_slurm.install(nodes, PROGRAMS)

        def submit(*words: str, **settings: str) -> subprocess.Popen[str]:
            with (tmp_path / "job.log").open("a") as log:
                job = subprocess.Popen(
                    ["sbatch", *SMALL_JOB, str(SCRIPT), *words],
                    env={**environment, **settings},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    text=True,
                    cwd=ROOT,
                )
            started.append(job)
            return job

        # Looked up here and not in this process's environment.
        os.environ["PATH"], path = environment["PATH"], os.environ["PATH"]
        yield submit
        os.environ["PATH"] = path
        for job in started:
            job.kill()
            job.wait()


@pytest.fixture
def config(tiny_config: Callable[..., Config], tmp_path: Path) -> Config:
    """A run that has a corpus."""
    config = tiny_config(tmp_path / "run", store__items_per_unit=8)
    run_stages(config, stages=["corpus"])
    return config


def ended(job: subprocess.Popen[str], log: Path, seconds: float = 200) -> str:
    """What a job that succeeded has printed."""
    with suppress(subprocess.TimeoutExpired):
        job.wait(timeout=seconds)
    text = log.read_text()
    assert job.returncode == 0, text
    return text


def test_a_harvest_with_symmetric_run_has_the_bytes_of_one_process(
    slurm: Callable[..., subprocess.Popen[str]],
    config: Config,
    tiny_config: Callable[..., Config],
    tmp_path: Path,
) -> None:
    job = slurm("harvest", *words_of(config, tmp_path))
    text = ended(job, tmp_path / "job.log")
    assert "2 node(s), head node1 at 10.77.0.1:20001, symmetric" in text
    assert "On worker node. Connecting to Ray cluster at 10.77.0.1:20001" in text
    inline = tiny_config(tmp_path / "inline", store__items_per_unit=8)
    run_stages(inline, stages=["corpus", "harvest"])
    assert shards(tmp_path / "run") == shards(tmp_path / "inline")


@only_whole
@pytest.mark.parametrize("launch", ["symmetric", "classic"])
def test_the_driver_is_told_of_a_notice_and_the_job_is_requeued(
    slurm: Callable[..., subprocess.Popen[str]], tmp_path: Path, launch: str
) -> None:
    driver, is_up = waiting_driver(tmp_path)
    job = slurm("run", "url=mine", BATHYSCOPE=str(driver), BATHYSCOPE_LAUNCH=launch)
    end = time.monotonic() + 120
    while time.monotonic() < end and not is_up.exists():
        time.sleep(0.2)
    batch = int((tmp_path / "nodes" / "slurm" / "job-1.pid").read_text())
    os.kill(batch, signal.SIGUSR1)
    text = ended(job, tmp_path / "job.log")
    told = text.index("the driver was told")
    assert text.index("notice: this job is about to end, the driver is told") < told
    assert told < text.index("requeued: the same command goes on where this one stopped")
    again = text.index("driver, restart 1: run url=mine cluster=address")
    assert text.index("job 1, restart 1: 2 node(s)") < again
    assert (tmp_path / "nodes" / "slurm" / "requeued").read_text() == "1\n"


@only_whole
def test_a_harvest_in_classic_steps_has_the_bytes_of_one_process(
    slurm: Callable[..., subprocess.Popen[str]],
    config: Config,
    tiny_config: Callable[..., Config],
    tmp_path: Path,
) -> None:
    targets = tmp_path / "targets"
    targets.mkdir()
    words = words_of(config, tmp_path)
    job = slurm("harvest", *words, BATHYSCOPE_LAUNCH="classic", BATHYSCOPE_TARGETS=str(targets))
    path = targets / "bathyscope-1.json"
    while job.poll() is None and not path.exists():
        time.sleep(0.1)
    assert json.loads(path.read_text()) == [
        {"labels": {"slurm_job": "1"}, "targets": ["node1:8080", "node2:8080"]}
    ]
    assert "head node1 at 10.77.0.1:20001, classic" in ended(job, tmp_path / "job.log")
    assert not path.exists()
    inline = tiny_config(tmp_path / "inline", store__items_per_unit=8)
    run_stages(inline, stages=["corpus", "harvest"])
    assert shards(tmp_path / "run") == shards(tmp_path / "inline")


def script(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The batch script by itself, as far as it comes without Slurm."""
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        env={"PATH": os.environ["PATH"], "HOME": "/nowhere", **job, **settings},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def test_a_job_without_a_command_or_with_an_unknown_launch_ends_at_once() -> None:
    without = script()
    assert without.returncode == 2
    assert "no command given" in without.stderr
    unknown = script("run", "url=mine", BATHYSCOPE_LAUNCH="magic")
    assert unknown.returncode == 2
    assert "BATHYSCOPE_LAUNCH is magic; symmetric or classic is wanted" in unknown.stderr


def test_secrets_that_others_can_read_are_refused(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.sh"
    secrets.write_text("HF_TOKEN=canary\n", encoding="utf-8")
    secrets.chmod(0o644)
    open_to_all = script("run", BATHYSCOPE_LAUNCH="magic", BATHYSCOPE_SECRETS=str(secrets))
    assert open_to_all.returncode == 2
    assert "chmod 600" in open_to_all.stderr
    assert "canary" not in open_to_all.stderr + open_to_all.stdout
    secrets.chmod(0o600)
    closed = script("run", BATHYSCOPE_LAUNCH="magic", BATHYSCOPE_SECRETS=str(secrets))
    assert "BATHYSCOPE_LAUNCH" in closed.stderr


def directives(path: Path, mark: str) -> dict[str, str]:
    lines = re.findall(rf"^{mark} --(\S+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(line.partition("=")[::2] for line in lines)


def test_the_notice_leaves_time_for_the_units_under_way() -> None:
    found = directives(SCRIPT, "#SBATCH")
    assert found["signal"] == "B:USR1@120"
    assert {"requeue", "exclusive"} <= set(found)
    # 30 seconds to end Ray after the driver.
    assert Config().cluster.drain_s + 30 <= 120


def test_the_nightly_entry_is_one_small_job_whose_name_never_runs_twice() -> None:
    path = DEPLOY / "slurm" / "nightly.scron"
    assert set(directives(path, "#SCRON")) >= {"job-name", "time", "ntasks", "chdir", "output"}
    lines = path.read_text(encoding="utf-8").splitlines()
    (entry,) = [line for line in lines if line and not line.startswith("#")]
    minute, hour, *every = entry.split()[:5]
    assert (int(minute) < 60, int(hour) < 24, every) == (True, True, ["*", "*", "*"])
    assert "--dependency=singleton --time=20:00:00 deploy/slurm/bathyscope.sbatch" in entry
