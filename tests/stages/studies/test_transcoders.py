"""Runs with a transcoder of each block, for studies that read attribution graphs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from bathyscope.commands.study import study
from bathyscope.config import Config
from bathyscope.runs.run import Run
from bathyscope.stages.studies import registry
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.needs import needs_of
from bathyscope.stages.studies.superposition import study as superposition
from bathyscope.stages.studies.transcoders import transcoder_run_of, transcoders_of

Make = Callable[..., Config]
SETTINGS = {
    "study__transcoder_expansion": 2,
    "study__transcoder_k": 4,
    "study__random_models": False,
    "family__models": ["llama-0.013M-seed0"],
}


def with_transcoders() -> SimpleNamespace:
    """The study of superposition, as if it read transcoders too."""
    return SimpleNamespace(**{**vars(superposition), "TRANSCODERS": True})


def test_every_block_has_a_transcoder_of_its_mlp(tiny_study: Make) -> None:
    config = tiny_study("superposition", **SETTINGS)
    [member] = family_of(config)
    own = transcoder_run_of(config, member)
    assert own.url == f"{config.url}/transcoders/llama-0.013M-seed0"
    assert own.hooks.points == ["mlp_in.0", "mlp_in.1", "mlp_out.0", "mlp_out.1"]
    made = transcoders_of(own)
    assert [c.dictionary.name for c in made] == ["transcoder-layer0", "transcoder-layer1"]
    assert [(c.inputs, c.outputs) for c in made] == [
        (["mlp_in.0"], ["mlp_out.0"]),
        (["mlp_in.1"], ["mlp_out.1"]),
    ]
    # 2 latents per dimension of 16, 20 rows for each, in steps of 128 rows at least.
    assert {(c.dictionary.num_latents, c.dictionary.k, c.train.tokens) for c in made} == {
        (32, 4, 640)
    }


def test_a_study_needs_what_it_reads_and_no_more(tiny_study: Make) -> None:
    config = tiny_study("superposition", **SETTINGS)
    [member] = family_of(config)
    assert [need.kind for need in needs_of(config, superposition, member)] == [""]
    first, second = needs_of(config, with_transcoders(), member)
    assert (first.kind, second.kind) == ("", "transcoder")
    assert second.names == ["transcoder-layer0", "transcoder-layer1"]
    assert (first.step("harvest"), second.step("harvest")) == ("harvest", "transcoder harvest")


def test_transcoders_are_made_once_and_decide_what_a_result_is(
    tiny_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_study("superposition", **SETTINGS)
    said: list[str] = []
    assert study(config, said.append)
    monkeypatch.setitem(registry.STUDIES, "superposition", with_transcoders())
    assert study(config, said.append)
    run = Run(f"{config.url}/transcoders/llama-0.013M-seed0")
    assert list(run.dictionaries) == ["transcoder-layer0", "transcoder-layer1"]
    results = list(Run(config.url).objects.at("studies/superposition").files("results"))
    assert len(results) == 2
    assert study(config, said.append)
    # Two dictionaries of two seeds and two transcoders; two harvests.
    assert "found done: 2 harvests and 4 dictionaries" in said[-1]
    assert list(Run(config.url).objects.at("studies/superposition").files("results")) == results
