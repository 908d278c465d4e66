"""The batch script runs for real: its own `srun` steps, on two nodes that this machine plays."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

import fake_slurm
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from deploy_files import DEPLOY, ROOT, WHOLE, missing
from fake_nodes import FakeNodes, why_not
from support import listing

SCRIPT = DEPLOY / "slurm" / "bathyscope.sbatch"
PROGRAMS = {
    "ray": (sys.executable, "-m", "ray.scripts.scripts"),
    "bathyscope": (sys.executable, "-m", "bathyscope.cli"),
}
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


def words_of(config: Config, folder: Path) -> list[str]:
    """Words of the command line that compose a configuration."""
    experiments = folder / "conf" / "experiment"
    experiments.mkdir(parents=True)
    values: dict[str, Any] = dataclasses.asdict(config)
    text = "# @package _global_\n" + yaml.safe_dump(values)
    (experiments / "tiny.yaml").write_text(text, encoding="utf-8")
    return [f"--config-dir={folder / 'conf'}", "experiment=tiny", "cluster.workers=2"]


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


def shards(run: Path) -> dict[str, bytes]:
    """The stored rows of a run."""
    found = listing(run / "activations.zarr")
    return {name: data for name, data in found.items() if re.search(r"/c(\.\d+)+$", name)}
