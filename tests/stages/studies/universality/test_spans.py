"""Pairs of models with other tokenizers, compared by spans of text."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bathyscope.config import Config, ModelConfig
from bathyscope.models.bpe import train_bpe
from bathyscope.runs.run import Run
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.study import Subject
from bathyscope.stages.studies.universality import study
from bathyscope.stages.studies.universality.measures import measure_pair
from bathyscope.stages.studies.universality.pairs import comparison_of, pairs_of
from studied import rows_of, said


def copied(folder: Path, to: Path, *, noise: float = 0.0) -> Path:
    """A model folder, with other weights if asked for."""
    to.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (to / file.name).write_bytes(file.read_bytes())
    if noise:
        torch.manual_seed(1)
        weights = load_file(to / "model.safetensors")
        moved = {name: w + noise * torch.randn_like(w) for name, w in weights.items()}
        save_file(moved, to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.fixture(scope="module")
def studied(
    tiny_config: Callable[..., Config],
    tiny_model: Path,
    texts: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Config, str]:
    """A finished study of two models with one tokenizer and two with another."""
    folder = tmp_path_factory.mktemp("spans")
    other = copied(tiny_model, folder / "other")
    train_bpe(texts, vocabulary=400).save_pretrained(other)
    paths = {
        "one": tiny_model, "two": copied(tiny_model, folder / "two", noise=0.05),
        "three": other, "four": copied(other, folder / "four", noise=0.05),
    }  # fmt: skip
    members = [
        {"name": name, "architecture": "llama", "path": str(path), "seed": number % 2}
        for number, (name, path) in enumerate(paths.items())
    ]
    config = tiny_config(
        folder / "run",
        family__kind="members",
        family__members=members,
        study__name="universality",
        study__train_tokens=6000,
        study__held_out_tokens=1600,
        study__expansions=[2],
        study__k_shares=[0.125],
        study__widths=[64],
        study__ks=[4],
        study__tokens_per_latent=40,
        study__batch_rows=128,
        study__resamples=20,
    )
    whole, text = said(config)
    assert whole, text
    return config, text


def test_every_pair_is_of_the_same_spans(studied: tuple[Config, str]) -> None:
    config, _ = studied
    rows = rows_of(config)
    assert {row["aligned_by"] for row in rows} == {"spans of text"}
    assert len({(row["rows"], row["documents"], row["spans_masked"]) for row in rows}) == 1
    across = [row for row in rows if row["tokenizer_a"] != row["tokenizer_b"]]
    assert {row["subject"] for row in across} == {
        "one--three", "two--four", "one--four", "three--two",
    }  # fmt: skip
    for row in across:
        assert {row["vocabulary_a"], row["vocabulary_b"]} == {512, 400}
        tokens = {row[f"vocabulary_{side}"]: row[f"tokens_per_span_{side}"] for side in "ab"}
        assert 1 <= tokens[512] < tokens[400]
        assert row["documents_recoded"] == row["documents_differing"] == 0
        assert row["cka"] is not None
        assert row["crosscoder_equal"] is not None
        assert row["matched_low"] <= row["matched_mean"] <= row["matched_high"]
        assert row["token_floor_mean"] is not None
        assert row["partial_mean"] is not None
        assert abs(row["shuffled_rows_mean"]) < 0.1


def test_page_and_verdicts_say_how_pairs_were_aligned(studied: tuple[Config, str]) -> None:
    config, text = studied
    page = html.unescape((Path(config.url) / "studies/universality/index.html").read_text())
    row = rows_of(config)[0]
    told = f"{row['rows']:,} held-out spans of text, of {row['documents']} documents"
    assert told in page
    assert "How each pair was aligned, and what was left out" in page
    verdicts = Run(config.url).study("universality")["verdicts"]
    claims = [verdict["claim"] for verdict in verdicts]
    assert "Two tokenizers agree as much as two seeds of one size do." in claims
    assert "llama, vocabulary 400: larger models agree more, two seeds of one size." in claims
    short = (
        f"By {row['rows']:,} spans of text of {row['documents']} documents; 0 documents left out"
    )
    assert all(short in verdict["doubt"] for verdict in verdicts)
    assert any("alone gives." in c and "the tokens of the span" in c for c in claims)
    assert "over spans of text" in " ".join(text.split())


def test_a_model_beside_itself_scores_one_by_spans(studied: tuple[Config, str]) -> None:
    config, _ = studied
    members = {member.name: member for member in family_of(config)}
    one, three = members["one"], members["three"]
    single = replace(config, study=replace(config.study, seeds=[0]))
    for member in (one, three):
        found = measure_pair(
            single, Subject("itself", (member, member), (one, three)), lambda share, text="": None
        )
        for name in ("cka", "svcca", "pwcca", "matched_mean", "one_sided_mean"):
            assert found[name] == pytest.approx(1, abs=1e-6), name
        assert found["crosscoder_equal"] == 1


def test_spans_of_one_tokenizer_give_the_figures_of_rows(studied: tuple[Config, str]) -> None:
    config, _ = studied
    members = {member.name: member for member in family_of(config)}
    pair = members["one"], members["two"]
    quiet: Any = lambda share, text="": None  # noqa: E731
    by_rows = measure_pair(config, Subject("rows", pair), quiet)
    by_spans = measure_pair(config, Subject("spans", pair, (pair[0],)), quiet)
    # The text has characters beyond ASCII hardly ever, so that a token is a span.
    assert by_spans["rows"] == pytest.approx(by_rows["rows"], rel=0.01)
    assert by_spans["documents"] == by_rows["documents"]
    for name in ("cka", "matched_mean", "partial_mean", "token_floor_mean", "one_sided_mean"):
        assert by_spans[name] == pytest.approx(by_rows[name], abs=0.01), name


def test_a_crosscoder_that_diverges_leaves_the_other_figures(
    studied: tuple[Config, str],
) -> None:
    config, _ = studied
    members = {member.name: member for member in family_of(config)}
    readers = members["one"], members["three"]
    hot = replace(config, study=replace(config.study, lr=1e30))
    found = measure_pair(hot, Subject("pair", readers, readers), lambda share, text="": None)
    assert "loss became nan" in found["crosscoder_note"]
    assert "crosscoder_equal" not in found
    assert found["matched_mean"] > 0
    rows = [{**row, "crosscoder_note": ""} for row in rows_of(config)]
    rows[0]["crosscoder_note"] = "The training diverges"
    titles = [table.title for table in study.conclude(config, [*members.values()], rows).tables]
    assert any(title.endswith(f"diverged for {rows[0]['subject']}") for title in titles)


def test_a_second_call_finds_everything_done(studied: tuple[Config, str]) -> None:
    config, _ = studied
    assert "steps      0 done" in said(config)[1]


def test_models_of_one_tokenizer_are_still_compared_by_rows(studied: tuple[Config, str]) -> None:
    config, _ = studied
    some = replace(config, family=replace(config.family, models=["three", "four"]))
    assert said(some)[0]
    assert {row["aligned_by"] for row in rows_of(some)} == {"rows"}
    assert said(config)[0]


def test_pairs_of_tokenizers_take_the_nearest_size() -> None:
    def member(name: str, parameters: int, corpus: str | None, seed: int = 0) -> Member:
        model = ModelConfig(kind="folder", path=name)
        return Member(name, name[0], parameters, 0, seed, None, model, corpus=corpus)

    members = [
        member("g1", 100, None), member("l1", 100, None), member("l2", 400, None),
        member("l3", 9000, "x"), member("m1", 120, "x"), member("l4", 300, "y"),
    ]  # fmt: skip
    found = [s.name for s in pairs_of(members) if len(s.members) > 1]
    assert found == [
        "l1--l2", "g1--l1",
        # Of its own architecture where there is one, however far.
        "l2--l3", "g1--m1", "l4--l3",
    ]  # fmt: skip
    row = {
        "model_a": "a", "model_b": "b", "trained_a": True, "trained_b": True,
        "architecture_a": "l", "architecture_b": "g", "parameters_a": 1, "parameters_b": 2,
        "tokenizer_a": "t", "tokenizer_b": "u",
    }  # fmt: skip
    assert comparison_of(row, [1, 2]) == "tokenizers"
