"""A training by two processes of a Ray cluster: the dictionary of one, also when one is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from bathyscope.commands.run import run as run_stages
from bathyscope.commands.sweep import sweep
from bathyscope.config import Config
from bathyscope.jobs.cluster import Cluster
from bathyscope.jobs.sink import Silent
from bathyscope.runs.run import Run
from bathyscope.stages import train
from bathyscope.stages.checkpoints import Checkpoints
from bathyscope.sweep_points import SweepPoint, name_points
from support import changed


@pytest.fixture(scope="module")
def harvested(
    tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    config = tiny_config(
        tmp_path_factory.mktemp("training") / "run", train__checkpoint_steps=5,
        train__epochs=4, cluster__threads=1,
    )  # fmt: skip
    run_stages(config, stages=["corpus", "harvest", "train"])
    return config


def split(config: Config, name: str) -> Config:
    return changed(
        config, dictionary__name=name, train__processes=2, train__latent_parallel=2,
        cluster__kind="local", train__timeout_s=30.0,
    )  # fmt: skip


def close_to(one: Config, other: Config, name: str) -> None:
    wanted = Run(one.url).dictionaries["main"]
    found = Run(other.url).dictionaries[name]
    for key, tensor in wanted.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], tensor, rtol=1e-3, atol=1e-4)


def test_two_processes_train_the_dictionary_of_one_and_survive_a_kill(
    harvested: Config, tmp_path: Path
) -> None:
    config = split(harvested, "two")
    cluster = Cluster(config)
    killed: list[int] = []

    def kill() -> None:
        folder = Path(config.url) / "dictionaries/two/checkpoints"
        while not list(folder.glob("*/*.json")):
            time.sleep(0.02)
        places = cluster.replicas()[0].places
        killed.append(places[1].pid)
        os.kill(places[1].pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    try:
        facts = cluster.drive(train, Silent())
    finally:
        cluster.close()
    assert killed, "a process was killed after a checkpoint"
    assert facts["num_latents"] == 64
    close_to(harvested, config, "two")
    assert not (Path(config.url) / "dictionaries/two/checkpoints").exists()


def test_a_training_of_one_process_goes_on_with_two(
    harvested: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = changed(harvested, dictionary__name="more", train__log_every=5)
    write = Checkpoints.write

    def write_and_stop(self: Checkpoints, *given: Any) -> None:
        write(self, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "write", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run_stages(alone, stages=["train"])
    folder = Path(harvested.url) / "dictionaries/more"
    (record,) = folder.glob("checkpoints/*/*.json")
    assert record.stem == f"{5:012d}"
    # A mark in the curve shows whether the checkpoint was read.
    marked = json.loads(record.read_bytes())
    marked["facts"]["curve"][0]["tokens"] = 7
    record.write_text(json.dumps(marked))
    cluster = Cluster(changed(split(harvested, "more"), train__log_every=5))
    try:
        cluster.drive(train, Silent())
    finally:
        cluster.close()
    close_to(harvested, harvested, "more")
    (curve,) = folder.glob("curve*.parquet")
    assert pq.read_table(curve)["tokens"][0].as_py() == 7


def test_two_processes_train_the_dictionaries_of_a_sweep(harvested: Config, tmp_path: Path) -> None:
    config = changed(split(harvested, "main"), url=str(tmp_path / "run"), sweep__evaluate=False)
    shutil.copytree(harvested.url, config.url)
    values = [{"dictionary.k": k} for k in ("4", "8")]
    points = [SweepPoint(v, changed(config, dictionary__k=int(v["dictionary.k"]))) for v in values]
    points = name_points(points)
    assert sweep(config, points, say=lambda text: None)
    assert {"main-k4", "main-k8"} < set(Run(config.url).dictionaries)
    close_to(harvested, config, "main-k4")
    assert Run(config.url).dictionaries["main-k8"].parts[0].k == 8
