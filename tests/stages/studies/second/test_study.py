"""The study of the second model on a ladder of tiny models, and its arithmetic by hand."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bathyscope.config import Config, ModelConfig
from bathyscope.config_rules.study import check
from bathyscope.errors import ConfigError
from bathyscope.metrics.reconstruction import Reconstruction
from bathyscope.pages.study_data import StudyPage
from bathyscope.runs.run import Run
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import run_of, with_dictionary
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.protocols import EQUAL_COUNT, EQUAL_RATIO, middle_size
from bathyscope.stages.studies.second import study as second
from bathyscope.stages.studies.second.curves import curves
from bathyscope.stages.studies.second.measures import measure_pair
from bathyscope.stages.studies.second.pairs import comparison_of, subjects_of
from bathyscope.stages.studies.second.reach import against, reaches
from bathyscope.stages.studies.second.spreads import (
    censored_told,
    over_models_of,
    ratio_of,
    spread_of,
)
from bathyscope.stages.studies.second.starts import Start, most_used
from bathyscope.stages.studies.second.told import verdict
from bathyscope.stages.studies.second.verdicts import verdicts
from bathyscope.stages.studies.study import Subject
from bathyscope.studies.transplants import Weights
from studied import made_once, rows_of, said
from support import changed

Make = Callable[..., Config]
NAME = "second_model"
SETTINGS: dict[str, Any] = {
    "study__start_tokens": 2048,
    "study__map_tokens": [64, 256, 1024],
    "family__models": ["llama-0.013M-*", "llama-0.021M-*"],
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("second") / "studies"


@pytest.fixture
def studied(tiny_study: Make, kept: Path) -> tuple[Config, str]:
    """The finished study of two sizes, made once, in a copy."""
    return made_once(tiny_study(NAME, **SETTINGS), kept)


def test_every_start_of_every_subject_has_a_curve(studied: tuple[Config, str]) -> None:
    config, _ = studied
    rows = rows_of(config)
    subjects = second.subjects(config, family_of(config))
    assert {row["subject"] for row in rows} == {subject.name for subject in subjects}
    # Four targets, each with another seed and one adjacent size; two with others' first weights.
    assert len(subjects) == 4 + 4 * 2 + 2
    own = [r for r in rows if r["subject"] == "llama-0.013M-seed0"]
    assert [(r["protocol"], r["start"], r["map_tokens"]) for r in own] == [
        (EQUAL_COUNT, "scratch", 0), (EQUAL_COUNT, "scratch", 0),
        (EQUAL_COUNT, "pca", 64), (EQUAL_COUNT, "pca", 256), (EQUAL_COUNT, "pca", 1024),
        (EQUAL_COUNT, "itself", 0),
        (EQUAL_RATIO, "scratch", 0), (EQUAL_RATIO, "scratch", 0), (EQUAL_RATIO, "pca", 256),
    ]  # fmt: skip
    pair = [r for r in rows if r["subject"] == "llama-0.021M-seed1 to llama-0.013M-seed1"]
    assert [(r["protocol"], r["start"], r["map_tokens"]) for r in pair] == [
        *((EQUAL_COUNT, "mapped", n) for n in (64, 256, 1024)),
        (EQUAL_COUNT, "rotated_covariance", 256), (EQUAL_COUNT, "rotated", 256),
        (EQUAL_COUNT, "tied", 256), (EQUAL_COUNT, "shuffled", 256),
        (EQUAL_RATIO, "mapped", 256), (EQUAL_RATIO, "rotated_covariance", 256),
    ]  # fmt: skip
    for row in rows:
        # Sixteen steps of 128 rows: before the first, at doublings, and at shares of all.
        assert row["curve_tokens"] == [128 * s for s in (0, 1, 2, 4, 8, 16)]
        assert len(row["curve_fvu"]) == 6
        assert row["start_fvu"] == row["curve_fvu"][0]
        assert row["final_fvu"] == row["curve_fvu"][-1]
        assert not row["error"]
        if row["start"] == "mapped":
            assert 0 < row["map_fvu"] < 1.5


def test_the_page_has_every_claim_with_its_controls(studied: tuple[Config, str]) -> None:
    config, text = studied
    page = StudyPage.from_dict(Run(config.url).study(NAME))
    assert len(page.verdicts) >= 10
    for each in page.verdicts:
        assert each.controls
        assert each.doubt
        assert each.would_change
        assert each.claim in " ".join(text.split())
    first = page.verdicts[0]
    assert "another seed of the same size" in first.claim
    assert first.low <= first.value <= first.high  # type: ignore[operator]
    assert "4 pairs of 4 targets, 2 sizes, 2 seeds. Too few to call it a law." in first.doubt
    assert "Tokens per parameter go from" in first.doubt
    assert "With each model left out in turn, as source and as target" in first.doubt
    for words in ("Without the rows of the map", "without training", "principal directions"):
        assert words in first.controls
    [architectures] = [v for v in page.verdicts if "another architecture" in v.claim]
    assert architectures.answer == "not measured"
    shown = html.unescape((Path(config.url) / "studies" / NAME / "index.html").read_text())
    assert "Held-out FVU on the way: llama" in shown
    assert "Not the source's own training" in shown


def test_a_second_call_finds_everything_done(studied: tuple[Config, str]) -> None:
    config, _ = studied
    folder = Path(config.url) / "studies" / NAME / "results"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "steps      0 done" in said(config)[1]
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_model_mapped_onto_itself_starts_where_its_dictionary_is(
    studied: tuple[Config, str],
) -> None:
    config, _ = studied
    one = next(m for m in family_of(config) if m.name == "llama-0.021M-seed0")
    rows = measure_pair(config, Subject("itself", (one, one)), lambda share, text="": None)
    own = run_of(config, one)
    opened = OpenedMember(own)
    size = middle_size(own, EQUAL_COUNT, opened.rows.width, 0)
    held = opened.held_out_rows(config.study.splice_tokens)
    sums = Reconstruction(opened.rows.width)
    latents, x_hat = opened.run.dictionaries[size.name].reconstruct(held)
    sums.update(held, x_hat, num_active=latents.count)
    by_start = {(r["start"], r["map_tokens"]): r["start_fvu"] for r in rows}
    # All latents get one factor that is fitted to the first step's rows.
    assert by_start["mapped", 1024] == pytest.approx(sums.results()["fvu"], rel=0.02)
    assert {r["map_fvu"] < 1e-6 for r in rows} == {True}
    assert by_start["rotated", 256] > 1.1 * by_start["mapped", 1024]


def test_starts_become_together_what_they_become_alone(studied: tuple[Config, str]) -> None:
    config, _ = studied
    one = family_of(config)[0]
    opened = OpenedMember(run_of(config, one))
    own = with_dictionary(opened.config, middle_size(config, EQUAL_COUNT, opened.rows.width, 0))
    starts, quiet = [Start("scratch", seed) for seed in (0, 1, 2)], lambda share, text="": None
    at_once = curves(own, opened, starts, quiet)
    alone = curves(changed(own, sweep__together=1), opened, starts, quiet)
    assert at_once == alone
    assert at_once[0].fvu != at_once[1].fvu
    assert at_once[0].fvu[-1] < at_once[0].fvu[0]


def test_dictionaries_are_cut_and_filled_between_widths(studied: tuple[Config, str]) -> None:
    config, _ = studied
    rows = [r for r in rows_of(config) if r["protocol"] == EQUAL_RATIO]
    assert {(r["d"], r["num_latents"]) for r in rows} == {(16, 32), (24, 48)}


def test_the_most_used_latents_are_taken_in_their_order() -> None:
    rows = torch.arange(8.0).reshape(4, 2)
    weights = Weights(rows, rows, torch.arange(4.0), torch.zeros(2))
    found = most_used(weights, torch.tensor([1.0, 5.0, 0.0, 9.0]), 2)
    assert found.b_enc.tolist() == [1, 3]


def member(name: str, architecture: str, parameters: int, seed: int) -> Member:
    model = ModelConfig(kind="folder", path=name)
    return Member(name, architecture, parameters, 0, seed, None, model)


def test_the_pairs_of_a_made_up_family() -> None:
    members = [
        member(f"{a}{size}{seed}", a, parameters, seed)
        for a, sizes in (("g", ((1, 110),)), ("l", ((1, 100), (2, 200), (3, 400))))
        for size, parameters in sizes
        for seed in (0, 1)
    ]
    untrained = [replace(m, name=f"{m.name}-0", trained=False) for m in members if m.name == "l20"]
    found = subjects_of([*members, *untrained])
    assert [s.name for s in found if len(s.members) == 1] == [m.name for m in members]
    assert [s.name for s in found if len(s.members) == 2] == [
        "g11 to g10", "l10 to g10", "g10 to g11", "l11 to g11",
        "l11 to l10", "l20 to l10", "g10 to l10", "l10 to l11", "l21 to l11", "g11 to l11",
        "l21 to l20", "l10 to l20", "l30 to l20",
        "l20 to l21", "l11 to l21", "l31 to l21", "l20-0 to l21",
        "l31 to l30", "l20 to l30", "l30 to l31", "l21 to l31",
    ]  # fmt: skip
    alone = subjects_of([members[4], *untrained])
    # With one seed there are no other first weights than its own.
    assert [s.name for s in alone] == ["l20", "l20-0 to l20"]


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        ({}, "seeds"),
        ({"source_parameters": 50}, "smaller"),
        ({"source_parameters": 200}, "larger"),
        ({"source_architecture": "g", "source_parameters": 50}, "architectures"),
        ({"source_trained": False}, "untrained"),
    ],
)
def test_the_kind_of_a_pair(other: dict[str, Any], kind: str) -> None:
    row = {
        "source_trained": True, "source_architecture": "l", "architecture": "l",
        "source_parameters": 100, "parameters": 100,
    }  # fmt: skip
    assert comparison_of({**row, **other}) == kind


TOKENS = [0, 100, 200, 400, 800, 1600]
SCRATCH = [1.0, 0.9, 0.8, 0.6, 0.4, 0.2]


def row(start: str, fvu: list[float], target: str = "t", **other: Any) -> dict[str, Any]:
    return {
        "target": target, "source": None, "architecture": "l", "parameters": 100, "model_seed": 0,
        "overfitted": False, "protocol": EQUAL_COUNT, "start": start, "map_tokens": 0,
        "dictionary_seed": 0, "curve_tokens": TOKENS, "curve_fvu": fvu, "start_fvu": fvu[0],
        "final_fvu": fvu[-1], "error": "", "source_trained": True, "source_architecture": "l",
        "source_parameters": 100, **other,
    }  # fmt: skip


def at_half(rows: list[dict[str, Any]], start: str) -> dict[str, Any]:
    [found] = [r for r in reaches(rows) if r["start"] == start and r["share"] == 0.5]
    return found


def test_tokens_are_counted_by_hand() -> None:
    # Scratch has 0.4 after 800 rows, half of its training. Mapped has it after 200, and its map
    # took 120: 800 / 320 = 2.5 times fewer, and 4 times without those of the map.
    mapped = row("mapped", [0.7, 0.5, 0.4, 0.3, 0.2, 0.1], source="s", map_tokens=120)
    found = at_half([row("scratch", SCRATCH), mapped], "mapped")
    assert found["level"] == pytest.approx(0.4)
    assert (found["scratch_tokens"], found["cost"]) == (pytest.approx(800), pytest.approx(320))
    assert 2 ** found["saving"] == pytest.approx(2.5)
    assert 2 ** found["saving_in_training"] == pytest.approx(4)
    assert found["ahead"] == pytest.approx(0.1)
    assert found["comparison"] == "seeds"


def test_what_never_gets_there_or_is_there_at_once_is_kept_and_told() -> None:
    rows = [
        row("scratch", SCRATCH),
        row("shuffled", [0.9] * 6, source="s", map_tokens=120),
        row("itself", [0.3] * 6),
    ]
    never, at_once = at_half(rows, "shuffled"), at_half(rows, "itself")
    assert (never["censored"], never["cost"]) == ("never", 1720)
    # It counts one step's rows: less cannot be told.
    assert (at_once["censored"], at_once["cost"]) == ("start", 100)
    told = censored_told([never, at_once])
    assert "1 of 2 never reached the loss" in told
    assert "1 of 2 had it before the first step" in told
    [difference] = against([at_once], [never])
    assert difference["saving"] == pytest.approx(math.log2(1720 / 100))
    assert "other start never did" in censored_told([difference])


def test_a_training_that_fails_is_no_scratch_and_reaches_nothing() -> None:
    broken = {"curve_fvu": [0.9, 0.9], "curve_tokens": [0, 100], "final_fvu": None, "error": "NaN"}
    scratch = row("scratch", SCRATCH)
    # One of two seeds failed: the other is the mean.
    both = [scratch, {**scratch, **broken, "dictionary_seed": 1}, row("mapped", SCRATCH)]
    assert at_half([*both[:1], *both[2:]], "mapped") == at_half(
        [both[0], {**both[1], "start": "pca"}, both[2]], "mapped"
    )
    found = at_half([scratch, row("mapped", SCRATCH, **broken)], "mapped")
    assert (found["censored"], found["cost"], found["ahead"]) == ("never", 1600, None)
    assert reaches([{**scratch, **broken}, row("mapped", SCRATCH)]) == []


def test_intervals_are_over_targets() -> None:
    records = [
        {"target": name, "saving": value}
        for name, value in (("a", 1.0), ("a", 1.0), ("b", 2.0), ("c", 3.0))
    ]
    found = spread_of(records, "saving", Config())
    assert found.value == pytest.approx(1.75)
    # Without a, b and c: 2.5, 5/3 and 4/3; Student's t of two degrees is 4.303.
    left = [2.5, 5 / 3, 4 / 3]
    mean = sum(left) / 3
    error = math.sqrt(2 / 3 * sum((v - mean) ** 2 for v in left))
    assert found.high - found.value == pytest.approx(4.302653 * error, rel=1e-5)
    assert ratio_of(records, Config()).value == pytest.approx(2**1.75)
    assert math.isnan(spread_of(records[:2], "saving", Config()).low)
    assert spread_of([], "saving", Config()).told() == "not measured"


def test_one_target_carries_no_verdict() -> None:
    mapped = row("mapped", [0.3] * 6, source="s", map_tokens=256)
    records = reaches([row("scratch", SCRATCH), mapped])
    config = changed(Config(), study__map_tokens=[256])
    found = verdicts(config, [member("t", "l", 100, 0)], records)
    assert {v.answer for v in found} == {"not shown", "not measured"}
    assert found[0].answer == "not shown"
    # Overfitted models carry none either.
    bad = [{**r, "overfitted": True} for r in records]
    answers = {v.answer for v in verdicts(config, [member("t", "l", 100, 0)], bad)}
    assert answers == {"not measured"}


def test_a_saving_that_all_targets_show_is_a_yes() -> None:
    rows = []
    for number in range(9):
        size = 100 * 2 ** (number // 2)
        some = {"target": f"t{number}", "parameters": size, "model_seed": number % 2}
        rows.append(row("scratch", SCRATCH, **some))
        fvu = [0.7, 0.5, 0.4, 0.3, 0.2, 0.1 + 0.001 * number]
        own = {"source": f"s{number}", "map_tokens": 120, "source_parameters": size, **some}
        rows.append(row("mapped", fvu, **own))
        rows.append(row("pca", SCRATCH, **some, map_tokens=120))
    config = changed(Config(), study__map_tokens=[120])
    members = [member(f"t{n}", "l", 100 * 2 ** (n // 2), n % 2) for n in range(9)]
    found = {v.claim: v for v in verdicts(config, members, reaches(rows))}
    [seeds, *_] = found.values()
    assert (seeds.answer, seeds.value) == ("yes", pytest.approx(2.5))
    [pca] = [v for claim, v in found.items() if "principal directions of as many" in claim]
    assert (pca.answer, pca.value) == ("yes", pytest.approx((800 + 120) / 320))
    [end] = [v for claim, v in found.items() if "ahead at the end" in claim]
    assert end.answer == "yes"
    [size] = [v for claim, v in found.items() if "grows with the size" in claim]
    assert size.answer == "not shown"


def test_pictures_are_refused_before_anything_is_computed() -> None:
    config = changed(Config(), study__name=NAME, data__kind="images")
    with pytest.raises(ConfigError, match=r"token by token, and data.kind is images"):
        second.sizes(config, member("cnn", "cnn", 100, 0))


def test_more_map_rows_than_there_are_are_refused(studied: tuple[Config, str]) -> None:
    config, _ = studied
    pair = second.subjects(config, family_of(config))[-1]
    many = changed(config, study__map_tokens=[64, 50_000])
    with pytest.raises(ConfigError, match=r"training rows that two models share.*50,000"):
        measure_pair(many, pair, lambda share, text="": None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"study__map_tokens": []}, "One or more different numbers"),
        ({"study__map_tokens": [64, 64]}, "One or more different numbers"),
        ({"study__map_tokens": [2]}, "from 3 on"),
        ({"study__map_tokens": [500_000]}, "more than is harvested"),
        ({"study__start_tokens": 1000}, "At least sixteen steps"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(changed(Config(), study__name=NAME, **settings))
    check(changed(Config(), study__name=NAME))
    if "harvested" in words or "sixteen" in words:
        check(changed(Config(), study__name="universality", **settings))


def test_held_out_rows_are_not_those_of_the_map(studied: tuple[Config, str]) -> None:
    config, _ = studied
    opened = OpenedMember(run_of(config, family_of(config)[0]))
    held = opened.held_out_rows(config.study.splice_tokens)
    first = opened.train_rows(1024)
    assert not bool((held[:, None] == first[None]).all(-1).any())
    assert torch.isfinite(held).all()


def test_a_claim_has_to_hold_with_each_model_left_out_too() -> None:
    def pair(source: str, target: str, saving: float) -> dict[str, Any]:
        return {"source": source, "target": target, "saving": saving}

    # Two seeds of four sizes, each the other's source: as if there were eight, there are four.
    savings = (0.1, 0.2, 0.3, 1.6)
    both = [(f"{n}a", f"{n}b", s) for n, s in enumerate(savings)]
    records = [pair(a, b, s) for a, b, s in both] + [pair(b, a, s) for a, b, s in both]
    by_target = ratio_of(records, changed(Config(), study__resamples=500))
    wide = over_models_of(records)
    assert wide.value == pytest.approx(by_target.value)
    assert by_target.low > 1 > wide.low
    told = {"architecture": "l", "parameters": 1, "model_seed": 0, "censored": ""}
    found = verdict("c", by_target, [{**r, **told} for r in records], controls="", would_change="")
    assert found.answer == "not shown"
    assert "has to hold by both" in found.doubt
    assert math.isnan(over_models_of([{**r, "source": None} for r in records]).low)
