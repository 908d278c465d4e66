"""The study of dictionaries, on a ladder of tiny models."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bathyscope.commands.study import study
from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.evaluation.splice import add_batch
from bathyscope.metrics.splice import TokenLosses, delta_ce
from bathyscope.pages.study_data import StudyPage
from bathyscope.runs.run import Run
from bathyscope.stages.spliced import forward_of
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.member_runs import run_of
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.values import HELD_OUT
from studied import made_once, rows_of, said

Make = Callable[..., Config]
NAME = "dictionary_scaling"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "studies"


@pytest.fixture
def studied(tiny_study: Make, kept: Path) -> tuple[Config, str]:
    """The finished study of the whole ladder, made once, in a copy."""
    return made_once(tiny_study(NAME), kept)


def test_the_page_has_a_verdict_on_both_protocols(studied: tuple[Config, str]) -> None:
    config, text = studied
    page = StudyPage.from_dict(Run(config.url).study(NAME))
    claims = [v.claim for v in page.verdicts]
    assert sum("equal F / d and L0 / d, larger" in claim for claim in claims) == 2
    assert sum("equal F and L0, larger" in claim for claim in claims) == 2
    for verdict in page.verdicts:
        assert verdict.low is None or verdict.low <= verdict.value <= verdict.high
        assert verdict.doubt
        assert verdict.controls
    assert len(page.members) == 9
    assert not page.failures
    html = (Path(config.url) / "studies" / NAME / "index.html").read_text()
    index = (Path(config.url) / "studies" / "index.html").read_text()
    assert 'href="dictionary_scaling/index.html"' in index
    for claim in claims:
        assert claim.split(":")[0] in html
        assert " ".join(claim.split()[:3]) in " ".join(text.split())


def test_rows_are_those_of_each_dictionary_and_each_control(studied: tuple[Config, str]) -> None:
    rows = rows_of(studied[0])
    # Of d = 16: 2 d with k 2, 32 and 64 with k 4, two seeds; PCA and neurons of each k; a random
    # one of each size.
    mine = [row for row in rows if row["member"] == "llama-0.013M-seed0"]
    kinds = [row["kind"] for row in mine]
    assert [kinds.count(k) for k in ("dictionary", "pca", "neurons", "random")] == [6, 2, 2, 3]
    assert all(row["compute"] == 6 * row["num_latents"] ** 2 * 16 * 20 for row in mine)
    for row in mine:
        assert 0 < row["fvu"] < 2
        assert row["l0"] <= row["k"] + 1e-9
        if row["kind"] == "dictionary":
            assert 0 <= row["unique"] <= row["num_latents"]
            assert row["stable"] is not None
    assert {tuple(row["protocols"]) for row in mine if row["kind"] == "pca"} == {()}


def test_figures_of_one_dictionary_are_those_of_its_splice(studied: tuple[Config, str]) -> None:
    config, _ = studied
    member = family_of(config)[4]
    own = run_of(config, member)
    opened = OpenedMember(own)
    dictionary = opened.run.dictionaries["topk-64-k4-seed1"]
    x = opened.held_out_rows(config.study.held_out_tokens)
    left = (x - dictionary(x)).square().sum() / (x - x.mean(0)).square().sum()
    forward, _ = forward_of(own)
    losses = TokenLosses()
    for batch in opened.batches(HELD_OUT, config.study.splice_tokens):
        add_batch(
            losses,
            forward,
            tokens=batch.tokens,
            activations=opened.rows.items(batch.first_item, batch.first_item + len(batch.tokens)),
            keep=batch.keep,
            documents=batch.documents,
            variants={"it": dictionary},
        )
    found = losses.results()
    [row] = [
        r
        for r in rows_of(config)
        if (r["member"], r["num_latents"], r["k"], r["dictionary_seed"], r["kind"])
        == (member.name, 64, 4, 1, "dictionary")
    ]
    assert row["fvu"] == pytest.approx(float(left), rel=1e-4)
    assert row["delta_ce"] == pytest.approx(delta_ce(found["clean"], found["it"]), abs=1e-6)
    if row["delta_ce_low"] is not None:
        assert row["delta_ce_low"] <= row["delta_ce"] <= row["delta_ce_high"]
    per_nat = opened.bits_per_nat(config.study.splice_tokens)
    assert row["delta_bits_per_byte"] == pytest.approx(row["delta_ce"] * per_nat)


def test_a_second_call_finds_everything_done(studied: tuple[Config, str]) -> None:
    config, _ = studied
    results = sorted((Path(config.url) / "studies" / NAME / "results").iterdir())
    before = [path.stat().st_mtime_ns for path in results]
    whole, text = said(config)
    assert whole
    assert [path.stat().st_mtime_ns for path in results] == before
    # Of each model 2 d, 32 and 64 latents with two seeds; of d = 32 the 2 d are the 64.
    wanted = "found done: 9 harvests and 48 dictionaries, which once took"
    assert re.search(rf"steps      0 done in \S+ s; {wanted} [1-9]", text)


def test_a_family_may_grow_and_keeps_what_it_had(tiny_study: Make) -> None:
    few = {"family__models": ["llama-0.013M-seed0"], "study__random_models": False}
    config = tiny_study(NAME, **few)
    assert said(config)[0]
    results = Path(config.url) / "studies" / NAME / "results"
    [first] = results.iterdir()
    written = first.stat().st_mtime_ns
    more = tiny_study(NAME, **{**few, "family__models": ["llama-0.013M-*"]})
    assert said(more)[0]
    assert len(list(results.iterdir())) == 2
    assert first.stat().st_mtime_ns == written
    assert {row["member"] for row in rows_of(more)} == {"llama-0.013M-seed0", "llama-0.013M-seed1"}


def test_a_broken_member_is_named_and_takes_no_other_with_it(
    tiny_study: Make, tiny_ladder: Config, tmp_path: Path
) -> None:
    ladder = tmp_path / "ladder"
    shutil.copytree(tiny_ladder.url, ladder)
    weights = ladder / "ladder" / "llama-0.021M-seed1" / "final" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.0.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    config = tiny_study(NAME, family__run=str(ladder), study__random_models=False)
    whole, text = said(config)
    assert not whole
    assert "FAILED llama-0.021M-seed1: NonFiniteError" in text
    page = Run(config.url).study(NAME)
    assert [name for name, _ in page["failures"]] == ["llama-0.021M-seed1"]
    assert len({row["member"] for row in rows_of(config)}) == 5


def test_a_failed_measurement_is_tried_again(
    tiny_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bathyscope.stages.studies.dictionaries import study as dictionary_scaling

    config = tiny_study(NAME, family__models=["llama-0.013M-*"], study__random_models=False)
    real = dictionary_scaling.measure

    def failing(config: Config, subject: Any, tell: Any) -> Any:
        if subject.name.endswith("seed1"):
            raise RuntimeError("out of memory")
        return real(config, subject, tell)

    monkeypatch.setattr(dictionary_scaling, "measure", failing)
    whole, text = said(config)
    assert not whole
    assert "FAILED llama-0.013M-seed1: RuntimeError: out of memory" in text
    [note] = (Path(config.url) / "studies" / NAME / "failed").iterdir()
    assert "Traceback" in "".join(json.loads(note.read_text())["traceback"])
    monkeypatch.undo()
    whole, text = said(config)
    assert whole
    assert "FAILED" not in text


def test_models_of_pictures_are_refused_before_anything_is_made(tiny_study: Make) -> None:
    config = tiny_study(NAME, data__kind="images")
    with pytest.raises(ConfigError, match="Of pictures there are superposition"):
        study(config, lambda line: None)
    assert not Path(config.url).exists()


def test_a_study_of_no_name_is_refused(tiny_study: Make) -> None:
    with pytest.raises(ConfigError, match=r"study\.name is 'sizes'\. One of dictionary_scaling"):
        study(tiny_study("sizes"), lambda line: None)


def test_losses_of_a_checkpoint_place_the_spliced_model(studied: tuple[Config, str]) -> None:
    rows = [r for r in rows_of(studied[0]) if r["kind"] == "dictionary" and r["trained"]]
    placed = [r for r in rows if r["earlier_tokens"] is not None]
    assert placed
    for row in placed:
        assert 0 < row["earlier_tokens"] <= row["tokens"]
        assert row["earlier_share"] == pytest.approx(row["earlier_tokens"] / row["tokens"])
    for row in rows:
        assert (row["earlier_tokens"] is None) == ("never" in (row["earlier_reason"] or ""))


def test_models_without_training_are_controls(studied: tuple[Config, str]) -> None:
    rows = rows_of(studied[0])
    assert {r["tokens"] for r in rows if not r["trained"]} == {0}
    assert all(torch.isfinite(torch.tensor(r["fvu"])) for r in rows)
