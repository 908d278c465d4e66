"""The study of wasted weights: on a ladder of tiny models, and on a CNN with dead weights."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bathyscope.config import Config, ModelConfig
from bathyscope.errors import ModelError
from bathyscope.models.capture import run_forward
from bathyscope.pages.study_data import StudyPage
from bathyscope.runs.run import Run
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import run_of
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.waste.along import METHODS_ALONG
from bathyscope.stages.studies.waste.curves import Curve, Drawn, removable_share
from bathyscope.stages.studies.waste.measures import measure_waste
from bathyscope.stages.studies.waste.methods import METHODS, prune_at_random
from bathyscope.stages.studies.waste.together import together
from bathyscope.stages.studies.waste.trials import Losses, trial_of
from bathyscope.stages.studies.waste.verdicts import verdicts
from bathyscope.studies.prunable import prunable
from studied import made_once, of, rows_of, said
from study_models import convolutions, llama
from support import changed

Make = Callable[..., Config]
NAME = "wasted_weights"
SETTINGS: dict[str, Any] = {
    "study__calibration_items": 20,
    "study__shares": [0.3, 0.5, 0.8],
    "study__bits": [8, 2],
    "study__budget_nats": 0.01,
    "study__held_out_tokens": 1200,
    "study__splice_tokens": 1200,
}
PHOTOGRAPHS = str(Path(__file__).parents[3] / "pictures")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("waste") / "studies"


@pytest.fixture
def studied(tiny_study: Make, kept: Path) -> tuple[Config, str]:
    """The finished study of the whole ladder, made once, in a copy."""
    return made_once(tiny_study(NAME, **SETTINGS), kept)


def test_the_page_judges_each_method_and_all_together(studied: tuple[Config, str]) -> None:
    config, text = studied
    page = StudyPage.from_dict(Run(config.url).study(NAME))
    claims = [v.claim for v in page.verdicts]
    assert claims[0].startswith("llama: larger models waste more")
    for method in METHODS:
        named = [c for c in claims if f"llama: the share that {method.words} removes at" in c]
        assert len(named) == (not method.control)
    assert any("beyond magnitude shrinks with the size" in c for c in claims)
    for verdict in page.verdicts:
        assert verdict.controls
        assert verdict.doubt
        assert verdict.would_change
    first = page.verdicts[0].doubt
    assert all(method.words in first for method in METHODS if not method.control)
    assert len(page.members) == 9
    assert not page.failures
    html = (Path(config.url) / "studies" / NAME / "index.html").read_text()
    assert html.count("<figcaption") == 1 + len(METHODS) + len(METHODS_ALONG)
    assert "llama: larger models waste more" in html
    assert "larger models waste more" in " ".join(text.split()).lower()


def test_rows_are_those_of_each_method_and_share(studied: tuple[Config, str]) -> None:
    rows = of(rows_of(studied[0]), member="llama-0.021M-seed1")
    for method in METHODS:
        points = of(rows, kind="point", method=method.name)
        shares = [row["share"] for row in points]
        assert shares == sorted(shares)
        # Nothing taken costs nothing, to the last bit.
        assert (shares[0], points[0]["rise"]) == (0, 0)
        assert {"weights": 4, "blocks": 3, "bits": 3}[method.kind] == len(points)
        [summary] = of(rows, kind="summary", method=method.name)
        assert 0 < summary["removable"] <= shares[-1]
        assert summary["removable_low"] <= summary["removable"] <= summary["removable_high"]
        widths = np.diff(shares) * (np.array([p["rise"] for p in points])[1:] / 2)
        widths += np.diff(shares) * np.array([p["rise"] for p in points])[:-1] / 2
        assert summary["area"] == pytest.approx(widths.sum() / shares[-1])
    assert [row["share"] for row in of(rows, method="angular", kind="point")] == [0, 0.5, 1]
    [counts] = of(rows, kind="counts")
    total = counts["prunable"] + counts["embedding"] + counts["other"]
    assert total == counts["parameters"]
    assert counts["embedding"] == 300 * 24
    # Of 16 bits: 2, a step and a lowest value of 16 bits each for a row of 24 to 64 columns.
    [two] = of(rows, kind="point", method="rounding", bits=2)
    assert 1 - (2 + 32 / 24) / 16 <= two["share"] < 1 - (2 + 32 / 64) / 16


def test_figures_are_those_of_the_model_changed_by_hand(studied: tuple[Config, str]) -> None:
    config, _ = studied
    member = family_of(config)[2]
    opened = OpenedMember(run_of(config, member))
    trial, model = trial_of(opened), opened.model.model
    clean = trial.losses()
    for weight in prunable(model).weights:
        matrix = weight.parameter.detach()
        cut = matrix.abs().flatten().sort().values[math.floor(matrix.numel() * 0.5)]
        weight.parameter.mul_(matrix.abs() >= cut)
    changed_losses = trial.losses()
    [row] = of(rows_of(config), member=member.name, method="magnitude", kind="point", share=0.5)
    assert row["rise"] == pytest.approx(changed_losses.mean() - clean.mean(), abs=1e-12)
    assert row["clean_loss"] == pytest.approx(clean.mean(), abs=1e-12)
    per_nat = opened.bits_per_nat(config.study.splice_tokens)
    assert row["rise_bits_per_byte"] == pytest.approx(row["rise"] * per_nat)
    assert row["rise_low"] <= row["rise"] <= row["rise_high"]


def test_a_second_call_finds_everything_done(studied: tuple[Config, str]) -> None:
    config, _ = studied
    results = sorted((Path(config.url) / "studies" / NAME / "results").iterdir())
    before = [path.stat().st_mtime_ns for path in results]
    whole, text = said(config)
    assert whole
    assert [path.stat().st_mtime_ns for path in results] == before
    assert re.search(r"steps      0 done in \S+ s$", text)


def test_another_budget_is_measured_anew(studied: tuple[Config, str]) -> None:
    config = changed(
        studied[0], study__budget_nats=0.02, family__models=["llama-0.013M-seed0"],
        study__random_models=False,
    )  # fmt: skip
    before = len(list((Path(config.url) / "studies" / NAME / "results").iterdir()))
    assert said(config)[0]
    assert "not measured at three sizes" in Run(config.url).study(NAME)["answer"]
    assert len(list((Path(config.url) / "studies" / NAME / "results").iterdir())) == before + 1


def test_a_broken_member_is_named_and_takes_no_other_with_it(
    tiny_study: Make, tiny_ladder: Config, tmp_path: Path
) -> None:
    folders = Path(tiny_ladder.url) / "ladder"
    shutil.copytree(folders / "llama-0.013M-seed0" / "final", tmp_path / "broken")
    path = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = math.nan
    save_file(tensors, path, metadata={"format": "pt"})
    config = tiny_study(
        NAME,
        **SETTINGS,
        family__kind="members",
        family__members=[
            {"name": "broken", "path": str(tmp_path / "broken")},
            {"name": "whole", "path": str(folders / "llama-0.021M-seed0" / "final")},
        ],
    )
    whole, text = said(config)
    assert not whole
    assert "FAILED broken: NonFiniteError" in text
    assert {row["member"] for row in rows_of(config)} == {"whole"}
    page = StudyPage.from_dict(Run(config.url).study(NAME))
    assert [name for name, _ in page.failures] == ["broken"]


def test_a_model_on_a_coarse_grid_is_left_out_of_rounding_and_says_why(
    tiny_study: Make, tiny_ladder: Config, tmp_path: Path
) -> None:
    source = Path(tiny_ladder.url) / "ladder" / "llama-0.036M-seed0" / "final"
    shutil.copytree(source, tmp_path / "coarse")
    path = tmp_path / "coarse" / "model.safetensors"
    tensors = load_file(path)
    for name, value in tensors.items():
        if "proj" in name:
            step = value.abs().amax(1, keepdim=True) / 7
            tensors[name] = (value / step).round() * step
    save_file(tensors, path, metadata={"format": "pt"})
    config = tiny_study(
        NAME,
        **SETTINGS,
        family__kind="members",
        family__members=[{"name": "coarse", "path": str(tmp_path / "coarse")}],
    )
    assert said(config)[0]
    rows = rows_of(config)
    [excluded] = of(rows, kind="excluded")
    assert excluded["method"] == "rounding"
    assert "coarse grid" in excluded["reason"]
    assert not of(rows, kind="point", method="rounding")
    assert of(rows, kind="point", method="wanda")
    page = StudyPage.from_dict(Run(config.url).study(NAME))
    assert "coarse is left out of rounding:" in dict(page.protocol)["Left out"]


def planted(folder: Path) -> Path:
    """Weights of a CNN of which half of the columns of each matrix, or one more, are 0."""
    model = convolutions()
    for weight in prunable(model, heads=["head"]).weights:
        matrix = weight.read()
        matrix[:, : math.ceil(matrix.shape[1] / 2)] = 0
        # Large enough that what is left matters to the classes.
        weight.write(4 * matrix)
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def test_dead_weight_that_was_planted_is_found_in_a_cnn(tiny_study: Make, tmp_path: Path) -> None:
    weights = planted(tmp_path)
    config = tiny_study(
        NAME,
        **SETTINGS | {"study__shares": [0.25, 0.5, 0.6], "study__budget_nats": 1e-9},
        family__kind="members",
        family__members=[
            {
                "name": "cnn",
                "factory": "study_models:convolutions",
                "weights": str(weights),
                "hook": "pointwise",
            }
        ],
        data__kind="images",
        data__paths=[PHOTOGRAPHS],
        data__image_size=24,
        data__crops=6,
        data__held_out_share=0.5,
        data__seed=1,
    )
    whole, text = said(config)
    assert whole, text
    rows = rows_of(config)
    for method in ("magnitude", "wanda", "sparsegpt"):
        rises = [row["rise"] for row in of(rows, kind="point", method=method)]
        assert rises[:3] == [0, 0, 0]
        assert rises[3] > 1e-6
        [summary] = of(rows, kind="summary", method=method)
        assert summary["removable"] == pytest.approx(0.5, abs=0.01)
    [chance] = of(rows, kind="summary", method="random_weights")
    assert chance["removable"] < 0.1
    assert {row["measure"] for row in rows} == {"kl"}
    assert {row["method"] for row in of(rows, kind="excluded")} >= {"angular", "influence"}
    [counts] = of(rows, kind="counts")
    assert counts["embedding"] == 6 * 5 + 5
    assert counts["rise_bits_per_byte"] is None
    page = StudyPage.from_dict(Run(config.url).study(NAME))
    assert any(plot.title.startswith("KL after removal") for plot in page.plots)


def test_figures_of_pictures_are_kl_from_the_clean_classes(
    tiny_study: Make, tmp_path: Path
) -> None:
    torch.save(convolutions().state_dict(), tmp_path / "weights.pt")
    config = tiny_study(
        NAME,
        **SETTINGS,
        family__kind="members",
        family__members=[
            {
                "name": "cnn",
                "factory": "study_models:convolutions",
                "weights": str(tmp_path / "weights.pt"),
                "hook": "pointwise",
            }
        ],
        data__kind="images",
        data__paths=[PHOTOGRAPHS],
        data__image_size=24,
        data__crops=6,
        data__held_out_share=0.5,
        data__seed=1,
    )
    assert said(config)[0]
    opened = OpenedMember(run_of(config, family_of(config)[0]))
    trial = trial_of(opened)
    assert trial.losses().sums.tolist() == [0.0]
    held_out = opened.corpus.split_range("held_out")
    pixels = opened.corpus.images(held_out.start, held_out.stop).permute(0, 3, 1, 2).float() / 255
    mean, std = (
        torch.tensor(x).view(3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    model = opened.model.model
    before = run_forward(model, (pixels - mean) / std).double().log_softmax(1)
    prune_at_random(prunable(model, heads=["head"]), 0.5, 0)
    after = run_forward(model, (pixels - mean) / std).double().log_softmax(1)
    wanted = float((before.exp() * (before - after)).sum(1).mean())
    [row] = of(rows_of(config), kind="point", method="random_weights", share=0.5)
    assert row["rise"] == pytest.approx(wanted, rel=1e-4)


def test_a_model_that_draws_numbers_is_refused(
    studied: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = studied
    opened = OpenedMember(run_of(config, family_of(config)[0]))
    opened.config.study.shares = [0.5]
    norm = opened.model.model.get_submodule("model.norm")
    draw = torch.Generator().manual_seed(0)
    norm.register_forward_hook(
        lambda module, args, out: out + torch.randn(out.shape, generator=draw)
    )
    with pytest.raises(ModelError, match="other losses than before them"):
        measure_waste(opened, lambda share, text="": None)


def test_random_weights_are_nested_and_as_many_as_asked() -> None:
    gone = []
    for share in (0.25, 0.5):
        model = llama()
        found = prunable(model)
        prune_at_random(found, share, seed=3)
        gone.append([w.parameter == 0 for w in found.weights])
        for weight in found.weights:
            count = int((weight.parameter == 0).sum())
            assert count == math.floor(share * weight.parameter.numel())
    assert all(bool((few <= many).all()) for few, many in zip(*gone, strict=True))


def test_a_curve_by_hand() -> None:
    counts = np.array([2.0, 2.0])
    clean = Losses(counts, np.array([2.0, 4.0]))
    shares = [0.0, 0.5, 1.0]
    losses = [clean, Losses(counts, np.array([2.2, 4.2])), Losses(counts, np.array([3.0, 5.0]))]
    curve = Curve(shares, losses, clean)
    drawn = Drawn(resamples=20, seed=0)
    assert [rise.estimate for rise in curve.rises(drawn)] == pytest.approx([0, 0.1, 0.5])
    found = curve.summary(0.1, drawn)
    # Both documents lose the same, so every resample is the same curve.
    assert found["removable"] == pytest.approx(0.5)
    assert found["removable_low"] == pytest.approx(found["removable_high"])
    assert found["area"] == pytest.approx(0.5 * 0.05 + 0.5 * 0.3)
    assert not found["at_least"]
    assert curve.summary(0.6, drawn)["at_least"]
    assert curve.summary(0.6, drawn)["removable"] == 1


@pytest.mark.parametrize(
    ("rises", "wanted"),
    [
        ([0, 0.2, 0.1], 0.5),  # Over the budget and back: the first time counts.
        ([0, -0.1, -0.2], 1.0),
        ([0, 0, 0], 1.0),
    ],
)
def test_what_is_removable_of_curves_that_are_not_monotone(
    rises: list[float], wanted: float
) -> None:
    share, least, _ = removable_share(np.array([0, 0.5, 1.0]), np.array(rises), 0.1)
    assert share <= wanted
    assert least == (wanted == 1.0)


def family(
    slopes: Mapping[str, float], first_block: float = 0.01
) -> tuple[list[Member], list[dict[str, Any]]]:
    """Five sizes of two seeds, and removable shares that change so much per tenfold size."""
    members, rows = [], []
    for size in (10_000, 30_000, 100_000, 300_000, 1_000_000):
        for seed in (0, 1):
            name = f"m-{size}-{seed}"
            members.append(
                Member(name, "m", size, 0, seed, None, ModelConfig(), held_out_loss=None)
            )
            for method, slope in slopes.items():
                value = 0.5 + slope * math.log10(size / 1e5) + 0.01 * seed
                row = {"member": name, "method": method}
                rows += [
                    {**row, "kind": "summary", "removable": value, "at_least": False},
                    {**row, "kind": "point", "blocks": 1, "rise": first_block},
                ]
    return members, rows


@pytest.mark.parametrize(
    ("slopes", "answer"),
    [
        ({"magnitude": 0.1}, "not shown"),
        ({"magnitude": 0.1, "wanda": 0.1, "sparsegpt": 0.1}, "not shown"),
        ({"magnitude": 0.1, "rounding": 0.0}, "not shown"),
        ({"magnitude": 0.1, "rounding": 0.1}, "yes"),
        ({"magnitude": 0.1, "wanda": 0.0, "influence": 0.1}, "yes"),
        ({"magnitude": 0.1, "rounding": 0.1, "influence": -0.1}, "not shown"),
        ({"magnitude": 0.1, "wanda": -0.1, "rounding": 0.1}, "not shown"),
        ({"magnitude": -0.1, "rounding": -0.1}, "no"),
        ({"magnitude": -0.1}, "not shown"),
    ],
)
def test_only_two_kinds_of_removal_that_agree_give_an_answer(
    slopes: dict[str, float], answer: str
) -> None:
    members, rows = family(slopes)
    [verdict] = together(Config(), members, rows)
    assert verdict.answer == answer
    if answer == "yes":
        assert verdict.low > 0
    for method in METHODS:
        assert (f"{method.words} " in verdict.doubt) == (method.name in slopes)


def test_a_share_of_a_block_is_no_evidence_where_no_whole_block_can_go() -> None:
    members, rows = family({"magnitude": 0.1, "influence": 0.1}, first_block=0.2)
    first, _, influence = verdicts(Config(), members, rows)
    assert first.answer == "not shown"
    assert "Not counted: dropping blocks by Block Influence." in first.doubt
    assert influence.answer == "not shown"
    assert "No model can lose one whole block" in influence.doubt


def test_the_answer_names_the_method_that_it_depends_on() -> None:
    members, rows = family({"magnitude": 0.1, "wanda": 0.0})
    first, *_, last = verdicts(Config(), members, rows)
    assert "Rises by: magnitude 0.1 [" in first.doubt
    assert "Not shown by: Wanda" in first.doubt
    assert "So the answer depends on the method." in first.doubt
    assert "one kind is no evidence" in first.doubt
    assert (last.answer, last.value) == ("yes", pytest.approx(-0.1))


def test_overfitted_and_untrained_models_carry_no_verdict() -> None:
    members, rows = family({"magnitude": 0.1, "rounding": 0.1})
    spoiled = [Member(**{**vars(m), "overfitted": True}) for m in members]
    assert together(Config(), spoiled, rows) == []
