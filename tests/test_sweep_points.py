"""What a grid may vary, and how its points are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from bathyscope.composition import compose_sweep
from bathyscope.errors import ConfigError
from bathyscope.sweep_points import check_axes


def names(*overrides: str) -> list[tuple[str, str]]:
    _, _, points = compose_sweep(["url=runs/x", *overrides])
    return [(point.config.url, point.config.dictionary.name) for point in points]


def test_the_last_setting_changes_first_and_names_say_the_values() -> None:
    _, _, points = compose_sweep(["dictionary.k=8,16", "url=runs/x", "train.seed=range(0,2)"])
    assert [(p.config.dictionary.k, p.config.train.seed) for p in points] == [
        (8, 0), (8, 1), (16, 0), (16, 1),
    ]  # fmt: skip
    assert [p.config.dictionary.name for p in points] == [
        "main-k8-seed0", "main-k8-seed1", "main-k16-seed0", "main-k16-seed1",
    ]  # fmt: skip
    assert points[2].values == {"dictionary.k": "16", "train.seed": "0"}
    assert {p.config.url for p in points} == {"runs/x"}


def test_a_grid_may_be_over_what_makes_a_configuration_valid() -> None:
    # Without a layer nothing says which of the hook points the transcoder reads.
    given = ["hooks.points=[mlp_in.0-1,mlp_out.0-1]", "dictionary=transcoder"]
    _, _, points = compose_sweep([*given, "dictionary.layer=0,1", "url=runs/x"])
    assert [p.config.outputs for p in points] == [["mlp_out.0"], ["mlp_out.1"]]
    assert [p.config.dictionary.name for p in points] == ["main-layer0", "main-layer1"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.lr=1e-3,0.03"], ["main-lr0.001", "main-lr0.03"]),
        (["dictionary=topk,batch_topk"], ["main-topk", "main-batch_topk"]),
        (["dictionary.prefixes=[],[0.5,1]"], ["main-prefixes_none", "main-prefixes0.5_1"]),
        (["dictionary.name=wide", "train.epochs=1,2"], ["wide-epochs1", "wide-epochs2"]),
        (["sweep=seeds", "train.seed=5,6"], ["main-seed5", "main-seed6"]),
        (["+sweep.grid={dictionary.k: [3, 4]}"], ["main-k3", "main-k4"]),
        (["dictionary.k=3"], None),
    ],
)
def test_names(overrides: list[str], expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match=r"nothing to sweep over.*dictionary\.k=16,32,64"):
            names(*overrides)
        return
    assert [name for _, name in names(*overrides)] == expected


def test_settings_of_the_activations_have_runs_of_their_own() -> None:
    found = names("hooks.points=[resid_post.1],[resid_post.2]", "dictionary.k=8,16")
    assert found == [
        ("runs/x/points_resid_post.1", "main-k8"), ("runs/x/points_resid_post.1", "main-k16"),
        ("runs/x/points_resid_post.2", "main-k8"), ("runs/x/points_resid_post.2", "main-k16"),
    ]  # fmt: skip


def test_settings_win_over_the_file_of_their_group() -> None:
    _, _, points = compose_sweep(["train.epochs=7,8", "train=quick,standard"])
    assert [p.config.train.epochs for p in points] == [7, 7, 8, 8]
    assert [p.values["train"] for p in points] == ["quick", "standard"] * 2


def test_a_grid_in_a_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    text = "grid: {dictionary.hook: [resid_post.9, null], train.lr: [1.0e-3, 0.5]}"
    (tmp_path / "sweep/mine.yaml").write_text(text)
    _, found, points = compose_sweep(["sweep=mine"], config_dir=str(tmp_path))
    chosen = [(p.config.dictionary.hook, p.config.train.lr) for p in points]
    assert chosen == [
        ("resid_post.9", 1e-3), ("resid_post.9", 0.5), (None, 1e-3), (None, 0.5),
    ]  # fmt: skip
    assert list(found.sweep.grid) == ["dictionary.hook", "train.lr"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.sed=0,1"], r"'train.sed', which is no setting. Did you mean train.seed"),
        (["url=a,b"], "url cannot be varied"),
        (["cluster.threads=1,2"], "cluster.threads cannot be varied"),
        (["train.processes=1,2"], "train.processes cannot be varied"),
        (["dictionary.name=a,b"], "dictionary.name cannot be varied"),
        (["dictionary.k=3,3"], "dictionary.k has the values 3, 3.*each once"),
        (["train.lr=interval(0,1)"], "commas, or range"),
        (["dictionary.k=glob(*)"], "commas, or range"),
        (["+sweep.grid={dictionary.k: 3}"], "3 for dictionary.k. A list of values"),
        (["+sweep.grid={dictionary.k: []}"], "of an empty list"),
        (["+sweep.grid={dictionary.k: [{a: 1}]}"], "Numbers, texts and lists"),
        (["dictionary.k=0,1"], "dictionary.k is 0. A number above 0"),
        (["hooks.points=[a b],[a_b]", "dictionary.k=1,2"], "2 points of .* called main-k1 in"),
        (["train.seed=range(0,200)", "dictionary.k=range(1,100)"], "19,800 points. At most 10,000"),
    ],
)
def test_grids_that_cannot_be(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        names(*overrides)


def test_every_value_counts_once_however_it_is_spelled() -> None:
    check_axes({"train.seed": ["0", "1"]})
    with pytest.raises(ConfigError, match="each once"):
        check_axes({"train.seed": ["1", "1"]})
