"""Pairs of models of a tiny ladder, and what is known of a model beside itself."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bathyscope.commands.ladder import ladder
from bathyscope.config import Config, ModelConfig
from bathyscope.errors import ConfigError
from bathyscope.runs.run import Run
from bathyscope.runs.tables import from_parquet
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import run_of
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.pair_intervals import (
    below_ceiling,
    less_kind,
    mean_of,
    over_models,
    slope_of,
)
from bathyscope.stages.studies.paired_rows import (
    Paired,
    Side,
    check_alike,
    document_blocks,
    read_pair,
)
from bathyscope.stages.studies.protocols import sizes_at_equal_ratio
from bathyscope.stages.studies.study import Subject
from bathyscope.stages.studies.universality import measures as universality_measures
from bathyscope.stages.studies.universality import study as universality
from bathyscope.stages.studies.universality.crosscoder import common_latents
from bathyscope.stages.studies.universality.latents import Matched
from bathyscope.stages.studies.universality.pairs import comparison_of, pairs_of
from bathyscope.values import HELD_OUT, TRAIN
from studied import said
from support import changed

SMALL, LARGE = "llama-0.013M", "llama-0.021M"
MODELS = ["llama-*", "gpt2-0.013M-seed0"]
LADDER: dict[str, Any] = {
    "ladder__families": ["llama", "gpt2"],
    "ladder__rungs": [
        {"parameters": 13_000, "width": 16, "layers": 2, "heads": 2},
        {"parameters": 21_000, "width": 24, "layers": 2, "heads": 2},
    ],
    "ladder__seeds": [0, 1],
    "ladder__vocabulary": 300,
    "ladder__tokens": 3000,
    "ladder__batch_items": 4,
    "ladder__evaluations": 1,
    "ladder__watched_tokens": 500,
    "ladder__checkpoints": 2,
}


def config_of(make: Callable[..., Config], url: Path | str, models: str) -> Config:
    return make(
        url,
        family__kind="ladder",
        family__run=models,
        family__models=MODELS,
        study__name="universality",
        study__train_tokens=6000,
        study__held_out_tokens=2000,
        study__expansions=[2],
        study__k_shares=[0.125],
        study__widths=[],
        study__ks=[],
        study__tokens_per_latent=60,
        study__batch_rows=128,
        study__resamples=20,
    )


@pytest.fixture(scope="module")
def studied(
    tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, str]:
    """A finished study of two sizes and two architectures, and what was printed."""
    folder = tmp_path_factory.mktemp("universality")
    ladder(tiny_config(folder / "ladder", **LADDER), lambda line: None)
    config = config_of(tiny_config, folder / "run", str(folder / "ladder"))
    whole, text = said(config)
    assert whole
    return config, text


def table_of(config: Config) -> list[dict[str, Any]]:
    data = (Path(config.url) / "studies" / "universality" / "table.parquet").read_bytes()
    rows: list[dict[str, Any]] = from_parquet(data).to_pylist()
    return rows


def member(name: str, architecture: str, parameters: int, seed: int) -> Member:
    model = ModelConfig(kind="folder", path=name)
    return Member(name, architecture, parameters, 0, seed, None, model)


def pairs(*names: tuple[str, str, float]) -> list[dict[str, Any]]:
    """Rows of pairs of models of one architecture and size, with a score each."""
    return [
        {"model_a": a, "model_b": b, "score": score, "comparison": "seeds"} for a, b, score in names
    ]


def test_the_page_and_the_table_have_every_pair(studied: tuple[Config, str]) -> None:
    config, text = studied
    folder = Path(config.url) / "studies" / "universality"
    page = (folder / "index.html").read_text()
    results = Run(config.url).study("universality")
    claims = [verdict["claim"] for verdict in results["verdicts"]]
    assert len(claims) >= 10
    shown = html.unescape(page)
    assert [claim for claim in claims if claim not in shown] == []
    told = " ".join(text.split())
    assert [claim for claim in claims if claim not in told] == []
    assert "Row by row: all models have one tokenizer" in page
    assert "not claimed where widths differ" in page
    rows = table_of(config)
    assert len(rows) == len(universality.subjects(config, family_of(config)))
    for row in rows:
        assert -0.2 < row["matched_mean"] <= row["one_sided_mean"] + 1e-9
        assert row["matched_low"] <= row["matched_mean"] <= row["matched_high"]
        # Chosen and scored on other rows, shuffled rows give nothing.
        assert abs(row["shuffled_rows_mean"]) < 0.1
        if row["model_a"] == row["model_b"]:
            assert row["cka"] is None
            continue
        assert row["cka_low"] <= row["cka"] <= row["cka_high"]
        assert row["cka"] <= 1 + 1e-9
        shares = [row[f"crosscoder_{name}"] for name in ("common", "a_by_norm", "b_by_norm")]
        assert sum(shares) == pytest.approx(1)
        one_width = row["num_latents_a"] == row["num_latents_b"]
        assert (row["crosscoder_a_exclusive"] is not None) == one_width
        assert abs(row["cka_shuffled_documents"]) < 0.3
        d = (row["num_latents_a"] / 2, row["num_latents_b"] / 2)
        n = row["rows"]
        floor = math.sqrt(d[0] * d[1] / ((n + d[0]) * (n + d[1])))
        assert row["cka_gaussian_floor"] == pytest.approx(floor)


def test_a_second_call_finds_everything_done(studied: tuple[Config, str]) -> None:
    config, _ = studied
    folder = Path(config.url) / "studies" / "universality" / "results"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "steps      0 done" in said(config)[1]
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_pair_that_fails_takes_no_other_with_it(
    studied: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = studied
    bad = f"{SMALL}-seed0--{SMALL}-seed1"
    real = universality.measure_pair

    def broken(config: Config, subject: Subject, tell: Any) -> Any:
        if subject.name == bad:
            raise ValueError("no rows today")
        return real(config, subject, tell)

    monkeypatch.setattr(universality, "measure_pair", broken)
    some = replace(config.study, seed=1)
    models = [f"{SMALL}-*", f"{LARGE}-seed0"]
    config = replace(config, study=some, family=replace(config.family, models=models))
    whole, text = said(config)
    assert not whole
    assert f"FAILED {bad}: ValueError: no rows today" in text
    rows = table_of(config)
    assert len(rows) == len(universality.subjects(config, family_of(config))) - 1
    monkeypatch.undo()
    assert said(config)[0]
    assert bad in [row["subject"] for row in table_of(config)]


def test_a_model_beside_itself_scores_one(studied: tuple[Config, str]) -> None:
    config, _ = studied
    one = next(m for m in family_of(config) if m.name == f"{SMALL}-seed0")
    single = replace(config, study=replace(config.study, seeds=[0]))
    found = universality_measures.measure_pair(
        single, Subject("itself", (one, one)), lambda share, text="": None
    )
    for name in ("cka", "svcca", "pwcca", "matched_mean", "one_sided_mean"):
        assert found[name] == pytest.approx(1, abs=1e-6), name
    # One model twice: no latent is of one side alone.
    assert found["crosscoder_equal"] == 1
    assert found["crosscoder_fvu_a"] == pytest.approx(found["crosscoder_fvu_b"], rel=0.2)
    assert found["partial_mean"] > 0.5
    assert found["token_floor_mean"] < 0.999
    assert found["overstated"] == pytest.approx(0, abs=1e-9)


def test_a_permuted_copy_of_a_dictionary_is_matched_wholly(studied: tuple[Config, str]) -> None:
    config, _ = studied
    one = next(m for m in family_of(config) if m.name == f"{SMALL}-seed0")
    own = run_of(config, one)
    opened = OpenedMember(own)
    [size, _] = sizes_at_equal_ratio(own, opened.rows.width)
    dictionary = opened.run.dictionaries[size.name]
    side = Side(opened, dictionary)
    read = {split: read_pair(side, side, split, 6000) for split in (TRAIN, HELD_OUT)}
    order = torch.from_numpy(np.random.default_rng(0).permutation(size.num_latents))

    def renamed(paired: Paired) -> Paired:
        return replace(paired, b=(paired.b[0], order[paired.b[1].long()]))

    widths = (size.num_latents, size.num_latents)
    matched = Matched(renamed(read[TRAIN]), renamed(read[HELD_OUT]), widths)
    usable = matched.chosen.usable
    np.testing.assert_array_equal(matched.chosen.partners[usable], order.numpy()[usable])
    assert matched.record()["matched_share_above_0.7"] == 1


def test_a_crosscoder_tells_what_is_of_one_side() -> None:
    torch.manual_seed(0)
    d, n = 16, 8192
    directions = torch.linalg.qr(torch.randn(d, d)).Q

    def rows(own: slice, codes: torch.Tensor) -> torch.Tensor:
        return codes[:, own] @ directions[: own.stop - own.start]

    # Of 20 codes both sides have the first 4; the next 8 are of a, and the last 8 of b.
    codes = torch.rand(n, 20) * (torch.rand(n, 20) < 0.1)
    x = torch.cat([rows(slice(0, 4), codes), rows(slice(4, 12), codes)], 1)
    y = torch.cat([rows(slice(0, 4), codes), rows(slice(12, 20), codes)], 1)
    nothing = (torch.zeros(n, 1), torch.zeros(n, 1, dtype=torch.int64))
    paired = Paired(x, y, nothing, nothing, torch.arange(n) // 64, None)
    config = changed(
        Config(), study__batch_rows=256, study__tokens_per_latent=12_000, study__lr=1e-2
    )
    found = common_latents(config, paired, paired, f=20, k=2)
    assert found["crosscoder_fvu_a"] < 0.2
    assert found["crosscoder_equal"] == pytest.approx(0.2, abs=0.1)
    assert found["crosscoder_a_by_norm"] == pytest.approx(0.4, abs=0.15)
    assert found["crosscoder_b_by_norm"] == pytest.approx(0.4, abs=0.15)
    still = replace(paired, y=torch.zeros_like(y))
    with pytest.raises(ValueError, match="all alike"):
        common_latents(config, still, still, f=20, k=2)


def test_rows_of_images_have_no_token_floor(studied: tuple[Config, str]) -> None:
    config, _ = studied
    one = next(m for m in family_of(config) if m.name == f"{SMALL}-seed0")
    own = run_of(config, one)
    opened = OpenedMember(own)
    [size, _] = sizes_at_equal_ratio(own, opened.rows.width)
    side = Side(opened, opened.run.dictionaries[size.name])
    read = {
        split: replace(read_pair(side, side, split, 2000), tokens=None)
        for split in (TRAIN, HELD_OUT)
    }
    matched = Matched(read[TRAIN], read[HELD_OUT], (size.num_latents, size.num_latents))
    assert matched.without_tokens() == {}
    rows = [row for row in table_of(config) if row["model_a"] != row["model_b"]]
    bare = [
        {k: v for k, v in row.items() if "token_floor" not in k and "partial" not in k}
        for row in rows
    ]
    page = universality.conclude(config, family_of(config), bare)
    assert "current token" not in page.answer
    assert page.verdicts[0].claim.endswith("above what a shuffle of documents gives.")
    assert not any("current token's mean" in verdict.claim for verdict in page.verdicts)


def test_the_pairs_of_a_made_up_family() -> None:
    members = [
        member(f"{a}{size}{seed}", a, parameters, seed)
        for a, sizes in (("g", ((1, 110),)), ("l", ((1, 100), (2, 200), (3, 400))))
        for size, parameters in sizes
        for seed in (0, 1)
    ]
    untrained = [
        replace(m, name=f"{m.name}-untrained", trained=False)
        for m in members
        if m.name in ("l10", "l20")
    ]
    found = [s.name for s in pairs_of([*members, *untrained])]
    assert found == [
        *(f"{m.name}--{m.name}" for m in [*members, *untrained]),
        # Seeds of one size.
        "g10--g11", "l10--l11", "l20--l21", "l30--l31",
        # Adjacent sizes, the same seed and the next.
        "l10--l20", "l11--l21", "l10--l21", "l11--l20",
        "l20--l30", "l21--l31", "l20--l31", "l21--l30",
        # The smallest and one that is not next to it.
        "l10--l30", "l11--l31", "l10--l31", "l11--l30",
        # Two architectures; 200 and 400 are too far from 110.
        "l10--g10", "l11--g11", "l11--g10", "l10--g11",
        "l10-untrained--l10", "l20-untrained--l20",
        "l10-untrained--l20-untrained",
    ]  # fmt: skip


def test_pairs_grow_with_the_models() -> None:
    def count(sizes: int, seeds: int) -> int:
        return len(
            pairs_of(
                [member(f"{n}-{s}", "l", 100 * 2**n, s) for n in range(sizes) for s in range(seeds)]
            )
        )

    assert count(20, 4) < 2.2 * count(10, 4)
    assert count(10, 8) == pytest.approx(2 * count(10, 4), rel=0.01)


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        ({}, "far"),
        ({"parameters_b": 200}, "adjacent"),
        ({"parameters_b": 100}, "seeds"),
        ({"model_b": "x"}, "dictionaries"),
        ({"architecture_b": "g"}, "architectures"),
        ({"trained_a": False}, "training"),
        ({"model_b": "x", "trained_a": False}, "untrained_dictionaries"),
        ({"trained_a": False, "trained_b": False}, "untrained"),
    ],
)
def test_the_kind_of_a_pair(other: dict[str, Any], kind: str) -> None:
    row = {
        "model_a": "x", "model_b": "y", "trained_a": True, "trained_b": True,
        "architecture_a": "l", "architecture_b": "l", "parameters_a": 100, "parameters_b": 400,
    }  # fmt: skip
    assert comparison_of({**row, **other}, [100, 200, 400]) == kind


def test_an_interval_leaves_out_models() -> None:
    rows = pairs(("a", "b", 1.0), ("b", "c", 2.0), ("c", "a", 6.0))
    found = over_models(rows, mean_of("score"))
    # Without a, b, c: 2, 6 and 1, each the one pair that is left.
    error = math.sqrt(2 / 3 * ((2 - 3) ** 2 + (6 - 3) ** 2 + (1 - 3) ** 2))
    assert found.value == 3
    assert found.high - found.value == pytest.approx(4.302653 * error, rel=1e-6)
    assert math.isnan(over_models(rows[:1], mean_of("score")).low)
    assert over_models([], mean_of("score")).told() == "not measured"


def test_slopes_and_ceilings_by_hand() -> None:
    rows = [{"x": 10, "score": 1.0}, {"x": 100, "score": 0.5}, {"x": 1000, "score": 0.0}]
    assert slope_of("score", "x")(rows) == pytest.approx(-0.5)
    assert math.isnan(slope_of("score", "x")(rows[:1]))

    def row(kind: str, a: str, b: str, score: float) -> dict[str, Any]:
        return {
            "comparison": kind, "score": score, "architecture_a": a, "architecture_b": b,
            "parameters_a": 1, "parameters_b": 1,
        }  # fmt: skip

    some = [row("seeds", "g", "g", 0.8), row("seeds", "l", "l", 0.6)]
    some += [row("architectures", "g", "l", 0.5), row("architectures", "l", "m", 0.5)]
    # 0.5 less the mean of both ceilings, and less the only one that is there.
    found = below_ceiling("score", "architectures", "seeds")(some)
    assert found == pytest.approx(((0.5 - 0.7) + (0.5 - 0.6)) / 2)
    assert less_kind("score", "seeds", "architectures")(some) == pytest.approx(0.7 - 0.5)


def test_blocks_end_where_documents_do() -> None:
    documents = torch.tensor([0] * 3 + [1] * 1 + [2] * 4 + [3] * 2)
    assert document_blocks(documents, most=2) == [slice(0, 8), slice(8, 10)]
    assert document_blocks(documents[:3]) == [slice(0, 3)]
    many = torch.arange(1000) // 5
    sizes = [cut.stop - cut.start for cut in document_blocks(many)]
    assert sizes == [50] * 20


def test_other_tokenizers_are_refused_by_name(studied: tuple[Config, str], tmp_path: Path) -> None:
    config, _ = studied
    first, second = (
        OpenedMember(run_of(config, m))
        for m in family_of(config)
        if m.name.startswith(SMALL + "-seed") and m.trained
    )
    check_alike(first, second)
    second.corpus.identity = {**second.corpus.identity, "tokenizer": "another"}
    with pytest.raises(ConfigError, match=r"different tokenizers.*another.*spans of text"):
        check_alike(first, second)
    second.corpus.identity = {**first.corpus.identity, "shared": "x"}
    with pytest.raises(ConfigError, match="different items"):
        check_alike(first, second)


def test_what_a_row_holds_is_json(studied: tuple[Config, str]) -> None:
    config, _ = studied
    folder = Path(config.url) / "studies" / "universality" / "results"
    for path in folder.iterdir():
        assert json.loads(path.read_text())["rows"][0]["subject"]
