"""A grid of dictionaries on one harvest: each as if it were alone, and one table of all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import bathyscope
from bathyscope.commands.run import run as run_stages
from bathyscope.commands.sweep import sweep
from bathyscope.commands.verify import verify
from bathyscope.config import Config
from bathyscope.errors import ConfigError, IdentityMismatch
from bathyscope.runs.run import Run
from bathyscope.stages import sweep as stage
from bathyscope.sweep_points import SweepPoint, name_points
from bathyscope.training import loop as loop_module
from bathyscope.training.step import Step
from support import changed

GRID = ({"dictionary.k": "4"}, {"dictionary.k": "8"})


def points_of(config: Config, *values: dict[str, str]) -> list[SweepPoint]:
    """The points of a grid, as the command line makes them."""
    points = []
    for chosen in values:
        numbers = {k.replace(".", "__"): json.loads(v) for k, v in chosen.items()}
        points.append(SweepPoint(chosen, changed(config, **numbers)))
    return name_points(points)


def swept(config: Config, *values: dict[str, str]) -> tuple[bool, list[str]]:
    """Whether all went well, and what was said."""
    said: list[str] = []
    return sweep(config, points_of(config, *values), say=said.append), said


def weights(url: str, name: str) -> dict[str, torch.Tensor]:
    return Run(url).dictionaries[name].state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other) and len(one) == len(other)


@pytest.fixture(scope="module")
def harvested(
    tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    config = tiny_config(
        tmp_path_factory.mktemp("sweep") / "run", dictionary__num_latents=32,
        dictionary__group_rows=64, train__checkpoint_steps=10, evaluate__splice_tokens=60,
        evaluate__train_splice_tokens=60,
    )  # fmt: skip
    run_stages(config, stages=["corpus", "harvest"])
    return config


@pytest.fixture
def config(harvested: Config, tmp_path: Path) -> Config:
    """A copy of the harvest for one test."""
    shutil.copytree(harvested.url, tmp_path / "run")
    return changed(harvested, url=str(tmp_path / "run"))


def test_each_is_what_it_would_have_become_alone_and_the_table_says_so(config: Config) -> None:
    chosen = (("4", "0"), ("8", "0"), ("4", "1"))
    values = [{"dictionary.k": k, "train.seed": seed} for k, seed in chosen]
    fine, said = swept(config, *values)
    assert fine
    names = [point.config.dictionary.name for point in points_of(config, *values)]
    table = pq.read_table(Path(config.url) / "sweeps/sweep/table.parquet").to_pylist()
    assert table == json.loads((Path(config.url) / "sweeps/sweep/table.json").read_text())
    assert [row["dictionary"] for row in table] == names
    assert names == ["main-k4-seed0", "main-k8-seed0", "main-k4-seed1"]
    for point, row in zip(points_of(config, *values), table, strict=True):
        name, alone = row["dictionary"], f"alone-{row['dictionary']}"
        run_stages(changed(point.config, dictionary__name=alone), stages=["train"])
        assert same(weights(config.url, name), weights(config.url, alone))
        results = bathyscope.open(config.url).evaluations[name]
        assert row["fvu"] == results["reconstruction"]["held_out"]["dictionary"]["fvu"]
        assert row["k"] == point.config.dictionary.k
        assert f"{row['fvu']:.4f}" in said[0]
    assert verify(config, said.append), said
    assert not list(Run(config.url).objects.walk("dictionaries/main-k4-seed0/checkpoints"))


def test_a_sweep_goes_on_grows_and_keeps_what_is_there(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    swept(config, GRID[0])
    before = weights(config.url, "main-k4")
    at = Path(config.url) / "dictionaries/main-k4/model.safetensors"
    written = at.stat().st_mtime_ns
    capsys.readouterr()
    fine, said = swept(config, *GRID)
    assert fine
    assert "main-k4" in said[0]
    assert "main-k8" in said[0]
    assert at.stat().st_mtime_ns == written
    assert same(weights(config.url, "main-k4"), before)
    capsys.readouterr()
    swept(config, *GRID)
    told = capsys.readouterr().err
    assert "sweep     up to date" in told
    # An ordinary training finds its own.
    run_stages(points_of(config, *GRID)[0].config, stages=["train"])
    assert "train     up to date" in capsys.readouterr().err


def test_a_name_that_another_dictionary_has_is_refused_before_anything_is_trained(
    config: Config,
) -> None:
    swept(config, GRID[1])
    other = changed(config, train__lr=1e-3)
    with pytest.raises(IdentityMismatch, match=r"main-k8 is already there.*\n.*lr: 0\.003 -> 0.00"):
        swept(other, *GRID)
    assert list(Run(config.url).dictionaries) == ["main-k8"]
    fine, _ = swept(changed(other, force=True), *GRID)
    assert fine
    assert Run(config.url).manifest("dictionaries/main-k8").identity["train"]["lr"] == 1e-3


def test_one_that_diverges_is_named_and_the_others_are_there(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step.step

    def fails(self: Step, x: torch.Tensor, y: torch.Tensor | None = None) -> Any:
        return step(self, x * torch.nan if self.dictionary.parts[0].k == 8 else x, x)

    monkeypatch.setattr(Step, "step", fails)
    fine, said = swept(config, *GRID)
    assert not fine
    assert "main-k8: " in said[0]
    assert "batch 0 of epoch 0, step 0" in said[0]
    assert list(Run(config.url).dictionaries) == ["main-k4"]
    table = json.loads((Path(config.url) / "sweeps/sweep/table.json").read_text())
    assert [row["error"] is None for row in table] == [True, False]
    assert table[1]["fvu"] is None
    monkeypatch.undo()
    fine, said = swept(config, *GRID)
    assert fine, "it is tried again"
    assert said[0].count("\n") == 3, "a head, a line, and two rows"


class Interrupted(Exception):
    """The sweep was cut off."""


@pytest.mark.parametrize("after", [4, 25])
def test_after_a_cut_each_goes_on_from_its_own_step(
    config: Config, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    quiet = changed(config, url=f"{config.url}-quiet")
    shutil.copytree(config.url, quiet.url)
    swept(quiet, *GRID)
    train, seen = loop_module.Trainee.after, [0]

    def cut(self: Any, *given: Any) -> None:
        train(self, *given)
        seen[0] += 1
        if seen[0] == 2 * after:
            raise Interrupted

    monkeypatch.setattr(loop_module.Trainee, "after", cut)
    with pytest.raises(Interrupted):
        swept(config, *GRID)
    monkeypatch.undo()
    swept(config, *GRID)
    for name in ("main-k4", "main-k8"):
        assert same(weights(config.url, name), weights(quiet.url, name))


def test_other_hook_points_have_runs_of_their_own_and_one_table(config: Config) -> None:
    values = ({"hooks.points": '["resid_post.1"]'}, {"hooks.points": '["resid_post.2"]'})
    fine, said = swept(changed(config, sweep__evaluate=False), *values)
    assert fine
    table = json.loads((Path(config.url) / "sweeps/sweep/table.json").read_text())
    assert [Path(row["run"]).name for row in table] == [
        "points_resid_post.1", "points_resid_post.2",
    ]  # fmt: skip
    assert all(list(Run(row["run"]).dictionaries) == ["main"] for row in table)
    assert "FVU held out" not in said[0]


def passes(config: Config, values: Sequence[dict[str, str]]) -> list[list[str]]:
    configs = [point.config for point in points_of(config, *values)]
    settings = {**vars(configs[0]), "force": True}
    work = stage.units(stage.Swept(**settings, dictionaries=configs))
    found: list[list[str]] = work.identity["passes"]
    return found


def test_dictionaries_of_one_stream_share_a_pass(config: Config) -> None:
    five = [{"dictionary.k": str(k)} for k in (1, 2, 3, 4, 5)]
    assert passes(changed(config, sweep__together=3), five) == [
        ["main-k1", "main-k2"], ["main-k3", "main-k4", "main-k5"],
    ]  # fmt: skip
    orders = [{"train.order_seed": "0"}, {"train.order_seed": "1"}, {"train.lr": "0.1"}]
    assert passes(config, orders) == [["main-order_seed0", "main-lr0.1"], ["main-order_seed1"]]


def test_a_dictionary_that_cannot_be_is_refused_before_any_is_trained(config: Config) -> None:
    with pytest.raises(ConfigError, match="k"):
        swept(config, GRID[0], {"dictionary.k": "33"})
    assert list(Run(config.url).dictionaries) == []
