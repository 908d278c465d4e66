"""What can be removed along the training: checkpoints that are chosen, and verdicts by hand."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bathyscope.config import Config, ModelConfig
from bathyscope.stages.studies.equal_training import at_ratios, between, needed, ratios
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.member import Checkpoint, Member
from bathyscope.stages.studies.member_runs import at_checkpoint, run_of
from bathyscope.stages.studies.opened import OpenedMember, held_out_losses
from bathyscope.stages.studies.study import Subject
from bathyscope.stages.studies.waste.along import (
    METHODS_ALONG,
    around_loss,
    curve_along,
    measure_along,
    subjects_along,
)
from bathyscope.stages.studies.waste.along_figures import plots_along, tables_along
from bathyscope.stages.studies.waste.equal_training import at_equal_loss, at_equal_training
from bathyscope.stages.studies.waste.study import conclude
from bathyscope.stages.study import subjects_of
from bathyscope.studies.prunable import prunable
from studied import of, rows_of, said

Make = Callable[..., Config]
TOKENS = 2**10 * 1000
SIZES = (1000, 8000, 64_000)
NAME = "wasted_weights"
SETTINGS: dict[str, Any] = {
    "study__shares": [0.3, 0.8], "study__bits": [8, 2], "study__budget_nats": 0.01,
    "study__held_out_tokens": 1200, "study__splice_tokens": 1200, "study__calibration_items": 4,
}  # fmt: skip


def quiet(share: float, text: str = "") -> None:
    pass


def replace_models(config: Config, *names: str) -> Config:
    return replace(config, family=replace(config.family, models=list(names)))


def steps_of(listed: dict[str, Any]) -> list[str]:
    return [checkpoint["path"] for checkpoint in listed["checkpoints"]]


def member(size: int, seed: int, **changes: Any) -> Member:
    """Checkpoints at 1, 4, 16, … tokens of TOKENS · 4^-n, and first weights."""
    steps = [0, *(TOKENS // 4**n for n in (5, 4, 3, 2, 1))]
    found = Member(
        f"m-{size}-{seed}", "m", size, 0, seed, TOKENS, ModelConfig(),
        checkpoints=tuple(Checkpoint(f"step-{t:09d}", t, ModelConfig()) for t in steps),
    )  # fmt: skip
    return replace(found, **changes)


def members() -> list[Member]:
    return [member(size, seed) for size in SIZES for seed in (0, 1)]


def rows(
    share: Callable[[float, float], float], known: list[Member] | None = None
) -> list[dict[str, Any]]:
    """Rows of all that is measured, where share(decades of size, ln tokens per parameter)."""
    found: list[dict[str, Any]] = []
    for each in known or members():
        found.append({
            "member": each.name, "kind": "counts", "method": None, "prunable": 1, "embedding": 1,
            "other": 1, "left_out": "", "clean_loss": 5.0, "measure": "ce", "documents": 3,
        })  # fmt: skip
        decades = math.log10(each.parameters / SIZES[0])
        states = [(c.name, c.tokens) for c in between(each)]
        for name, tokens in [*states, (None, each.tokens)]:
            trained = math.log(tokens / each.parameters)
            for method in METHODS_ALONG:
                value = 0.01 if method.control else share(decades, trained) + 0.002 * each.seed
                found.append({
                    "member": each.name, "method": method.name, "taken": method.kind,
                    "kind": "summary" if name is None else "along", "state": name,
                    "state_tokens": None if name is None else tokens, "at_least": False,
                    "removable": value, "area": value, "area_low": value, "area_high": value,
                    "removable_low": value - 0.01, "measure": "ce",
                    "removable_high": value + 0.01, "documents": 3,
                    # Larger models and longer training are better, and the size counts more.
                    "clean_loss": 8 - decades - 0.2 * math.log(tokens / SIZES[0]),
                })  # fmt: skip
    return found


def test_the_ratio_is_that_of_the_largest_before_its_last_weights() -> None:
    known = members()
    assert ratios(known) == {"m": Fraction(TOKENS // 4, SIZES[-1])}
    assert [c.tokens for c in between(known[0])] == [TOKENS // 4**n for n in (5, 4, 3, 2, 1)]
    # The largest is at its checkpoint; the smallest reads 4,000 tokens, between two of them.
    assert [c.tokens for c in needed(known[-1], ratios(known)["m"])] == [TOKENS // 4]
    assert [c.tokens for c in needed(known[0], ratios(known)["m"])] == [
        TOKENS // 256,
        TOKENS // 256 * 4,
    ][:1]
    untold = [replace(m, tokens=None) for m in known]
    assert ratios(untold) == {}


@pytest.mark.parametrize(
    "known",
    [
        [m for m in members() if m.parameters != SIZES[1]],  # Two sizes.
        [replace(m, checkpoints=m.checkpoints[:1]) for m in members()],  # First weights alone.
        [replace(m, overfitted=True) for m in members()],
        # As many tokens per parameter for all: last weights say it already.
        [replace(m, tokens=20 * m.parameters) for m in members()],
        # The smallest begins after the largest has ended.
        [
            replace(
                m, checkpoints=m.checkpoints[-1:] if m.parameters == SIZES[0] else m.checkpoints[:3]
            )
            for m in members()
        ],
        [],
    ],
)
def test_families_without_equal_training_ask_for_nothing(known: list[Member]) -> None:
    assert ratios(known) == {}
    assert not [s for s in subjects_along(known, text=False) if len(s.members) == 1]
    assert at_equal_training(Config(), known, rows(lambda d, t: 0.3)) == []


def test_subjects_are_checkpoints_around_the_ratio_and_pairs() -> None:
    found = subjects_along(members(), text=True)
    alone = [s for s in found if len(s.members) == 1]
    assert [s.name for s in alone[-2:]] == [
        f"m-64000-{seed} at step-{TOKENS // 4:09d}" for seed in (0, 1)
    ]
    assert all(len(s.checkpoints) == 1 for s in alone)
    pairs = [s for s in found if len(s.members) == 2]
    assert [s.name for s in pairs] == [
        f"m-{b}-{seed} at the loss of m-{a}-{seed}"
        for seed in (0, 1)
        for a, b in ((1000, 8000), (8000, 64_000))
    ]
    assert len({s.name for s in found}) == len(found)
    # Of pictures there is no loss that two models share.
    assert subjects_along(members(), text=False) == alone


def test_a_trend_that_is_one_of_training_is_none_at_equal_training() -> None:
    """The share falls with tokens per parameter alone, so last weights rise with the size."""
    given = rows(lambda decades, trained: 0.9 - 0.05 * trained)
    together, *each = at_equal_training(Config(), members(), given)
    assert together.claim.startswith("m: at 4 tokens per parameter, larger models waste more")
    assert together.answer == "not shown"
    assert together.value == pytest.approx(0, abs=1e-9)
    assert [v.value for v in each] == pytest.approx([0, 0], abs=1e-9)
    # Per tenfold parameters the last weights see ln 10 fewer tokens for each of them.
    assert (
        f"Trend of last weights (+{0.05 * math.log(10):.3g} per tenfold parameters)"
        in each[0].controls
    )
    assert "Tokens per parameter go from 1.02e+03 (smallest) to 16 (largest)" in each[0].controls
    page = conclude(Config(), members(), given)
    assert page.answer.startswith(
        "Larger models waste more: m, yes; m: at 4 tokens per parameter, not shown. "
    )


def test_a_trend_that_is_one_of_size_stays() -> None:
    given = rows(lambda decades, trained: 0.2 + 0.1 * decades - 0.02 * trained)
    together, *each = at_equal_training(Config(), members(), given)
    assert together.answer == "yes"
    assert together.value == pytest.approx(0.1)
    assert [v.answer for v in each] == ["yes", "yes"]
    assert "removing random weights 0.01" in together.controls
    assert "learned so little" not in together.doubt
    young = [
        r | {"removable": 0.4} if r["method"] == "random_weights" and r["kind"] == "along" else r
        for r in given
    ]
    together, *each = at_equal_training(Config(), members(), young)
    for verdict in (together, *each):
        assert "random weights can go too, up to 40%: what they spare is not waste" in verdict.doubt


def test_at_equal_loss_the_larger_model_is_younger() -> None:
    given = rows(lambda decades, trained: 0.9 - 0.05 * trained)
    magnitude, rounding = at_equal_loss(Config(), members(), given)
    assert magnitude.claim == (
        "m: at equal loss, the larger of two models can spare a larger share by magnitude."
    )
    assert "rounding to nearest" in rounding.claim
    # Adjacent sizes differ by log10 8 = 0.903 decades in loss, thus by 4.5 in ln tokens; the line
    # in loss is one in ln tokens here, but for the last step to the final weights.
    wanted = 0.05 * (math.log10(8) / 0.2 + math.log(8)) / math.log10(8)
    assert magnitude.value == pytest.approx(wanted)
    assert magnitude.answer == "yes"
    assert "4 of 4 pairs" in magnitude.doubt
    assert "at equal loss, removing random weights 0 [0, 0]" in magnitude.controls
    # A larger model that was measured at its last weights alone is in no pair.
    last = [r for r in given if r["kind"] == "summary"]
    assert at_equal_loss(Config(), members(), last) == []


def test_curves_end_with_the_last_weights_and_need_their_tokens() -> None:
    given = rows(lambda decades, trained: 0.3)
    curve = curve_along(given, members()[0], "magnitude")
    assert [p.step for p in curve] == [*(TOKENS // 4**n for n in (5, 4, 3, 2, 1)), TOKENS]
    assert curve_along(given, replace(members()[0], tokens=None), "magnitude") == []
    assert curve_along(given, members()[0], "wanda") == []


def test_members_that_were_not_measured_there_are_out() -> None:
    found = at_ratios(members(), ratios(members()), lambda m: [] if m.seed else [(4000, 1.0)])
    assert [v.member.name for v in found.get("m", [])] == ["m-1000-0"]


def test_plots_and_tables_have_what_was_measured() -> None:
    given = rows(lambda decades, trained: 0.3)
    plots = plots_along(Config(), members(), given)
    assert len(plots) == len(METHODS_ALONG)
    assert plots[1].title.endswith("removable: removing random weights, the control")
    first = plots[0].series[0]
    assert first.points[-1] == (TOKENS / 1000, pytest.approx(0.3))
    checkpoints, pairs = tables_along(Config(), members(), given)
    assert len(checkpoints.rows) == 6 * 5
    assert checkpoints.rows[0]["per"] == TOKENS / 4**5 / 1000
    assert len(pairs.rows) == len(METHODS_ALONG) * 4
    last = [r for r in given if r["kind"] == "summary"]
    assert plots_along(Config(), members(), last) == []
    assert tables_along(Config(), members(), last) == []


def test_a_checkpoint_is_measured_as_its_weights_are(tiny_study: Make) -> None:
    config = tiny_study(NAME, **SETTINGS, study__random_models=False)
    [*_, member] = family_of(config)
    said(replace_models(config, member.name))
    checkpoint = between(member)[-1]
    found = measure_along(config, Subject("one", (member,), checkpoints=(checkpoint,)), quiet)
    assert {r["kind"] for r in found} == {"along", "along_point"}
    assert {(r["state"], r["state_tokens"]) for r in found} == {
        (checkpoint.name, checkpoint.tokens)
    }
    assert len(of(found, kind="along")) == len(METHODS_ALONG)
    opened = OpenedMember(at_checkpoint(config, member, checkpoint))
    clean = held_out_losses(opened, opened.model).mean_ce()
    for weight in prunable(opened.model.model).weights:
        matrix = weight.parameter.detach()
        cut = matrix.abs().flatten().sort().values[math.floor(matrix.numel() * 0.3)]
        weight.parameter.mul_(matrix.abs() >= cut)
    changed = held_out_losses(opened, opened.model).mean_ce()
    [row] = of(found, kind="along_point", method="magnitude", share=0.3)
    assert row["clean_loss"] == pytest.approx(clean, abs=1e-12)
    assert row["rise"] == pytest.approx(changed - clean, abs=1e-12)
    last = OpenedMember(run_of(config, member))
    assert row["clean_loss"] > held_out_losses(last, last.model).mean_ce()


def test_around_a_loss_are_the_checkpoints_of_its_first_crossing(tiny_study: Make) -> None:
    config = tiny_study(NAME, **SETTINGS, study__random_models=False)
    larger = family_of(config)[-1]
    said(replace_models(config, larger.name))
    inner, states = between(larger), [*(c.model for c in between(larger)), larger.model]
    assert len(inner) == 2
    # Small models that end with the loss of each of its own weights in turn.
    small = [replace(larger, model=model) for model in states]
    losses = []
    for each in small:
        own = OpenedMember(run_of(config, each))
        losses.append(held_out_losses(own, own.model).mean_ce())
    assert losses == sorted(losses, reverse=True)
    assert [around_loss(config, larger, each, quiet) for each in small] == [
        inner[:1], inner, inner[1:],
    ]  # fmt: skip
    # First weights never come to that loss.
    first = replace(larger, model=larger.checkpoints[0].model, checkpoints=())
    assert around_loss(config, first, small[-1], quiet) == []


def test_other_weights_of_a_checkpoint_are_measured_anew(
    tiny_study: Make, tiny_ladder: Config, tmp_path: Path
) -> None:
    listed = []
    for size in ("0.013M", "0.021M", "0.036M"):
        folder = tmp_path / size
        shutil.copytree(Path(tiny_ladder.url) / "ladder" / f"llama-{size}-seed0", folder)
        steps = [str(path) for path in sorted(folder.glob("step-*"))]
        listed.append({
            "name": size, "architecture": "llama", "path": str(folder / "final"), "seed": 0,
            "tokens": 4000, "checkpoints": [
                {"name": "early", "tokens": 10, "path": steps[0]},
                {"name": "late", "tokens": 1000, "path": steps[1]},
            ],
        })  # fmt: skip
    config = tiny_study(
        NAME, **SETTINGS, family__kind="members", family__members=listed, study__random_models=False
    )
    assert said(config)[0]
    before = {known.subject.name: known for known in subjects_of(config)}
    assert [n for n in before if n.endswith(("early", "late"))] == [
        "0.013M at early", "0.013M at late", "0.021M at early", "0.021M at late", "0.036M at late",
    ]  # fmt: skip
    assert all(known.there for known in before.values())
    path = Path(steps_of(listed[1])[1]) / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.5
    save_file(tensors, path, metadata={"format": "pt"})
    after = {known.subject.name: known for known in subjects_of(config)}
    assert [n for n in after if not after[n].there] == [
        "0.021M at late", "0.021M at the loss of 0.013M",
    ]  # fmt: skip


def test_a_broken_checkpoint_is_named_and_takes_no_model_with_it(
    tiny_study: Make, tiny_ladder: Config, tmp_path: Path
) -> None:
    whole = tmp_path / "ladder"
    shutil.copytree(tiny_ladder.url, whole)
    config = tiny_study(
        NAME, **SETTINGS, family__run=str(whole), family__models=["*seed0"],
        study__random_models=False,
    )  # fmt: skip
    member = family_of(config)[-1]
    [checkpoint] = needed(member, ratios(family_of(config))["llama"])
    path = Path(str(checkpoint.model.path)) / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], math.nan)
    save_file(tensors, path, metadata={"format": "pt"})
    finished, text = said(config)
    assert not finished
    assert f"FAILED {member.name} at {checkpoint.name}: NonFiniteError" in text
    assert {row["member"] for row in of(rows_of(config), kind="summary")} == {
        m.name for m in family_of(config)
    }
