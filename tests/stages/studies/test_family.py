"""Which models a study compares."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from bathyscope.commands.study import study
from bathyscope.config import Config, ModelConfig
from bathyscope.errors import ConfigError, CorpusError, MissingArtifact
from bathyscope.stages.studies.family import (
    corpus_run,
    family_of,
    sequence_length,
    table_row,
    thinned,
)
from bathyscope.stages.studies.member import Checkpoint
from bathyscope.stages.studies.member_runs import Size, run_of, width_of, with_dictionary
from bathyscope.stages.studies.protocols import sizes_at_equal_ratio, sizes_of
from studied import rows_of, said
from support import changed

Make = Callable[..., Config]


def test_a_ladder_gives_its_models_by_size_and_their_first_weights(tiny_study: Make) -> None:
    members = family_of(tiny_study("dictionary_scaling"))
    assert [m.name for m in members] == [
        *(f"llama-{size}M-seed{seed}" for size in ("0.013", "0.021", "0.036") for seed in (0, 1)),
        *(f"llama-{size}M-seed0-untrained" for size in ("0.013", "0.021", "0.036")),
    ]
    first, last = members[0], members[-1]
    assert (first.architecture, first.seed, first.trained) == ("llama", 0, True)
    assert first.checkpoints[0].tokens == 0
    assert first.checkpoints[-1].tokens == first.tokens == 31 * 4 * 32
    assert not last.trained
    assert last.tokens == 0
    assert str(last.model.path).endswith("llama-0.036M-seed0/step-000000")
    assert first.size == first.parameters - 300 * 16


def test_patterns_choose_models(tiny_study: Make) -> None:
    config = tiny_study("dictionary_scaling", family__models=["*-seed1"], family__checkpoints=False)
    members = family_of(config)
    assert [m.name for m in members] == [f"llama-{s}M-seed1" for s in ("0.013", "0.021", "0.036")]
    assert all(not m.checkpoints for m in members)
    with pytest.raises(ConfigError, match=r"family\.models is \['gpt2-\*'\]"):
        family_of(tiny_study("dictionary_scaling", family__models=["gpt2-*"]))


def test_a_ladder_that_is_not_there_says_so(tiny_study: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"family\.run is not set"):
        family_of(tiny_study("dictionary_scaling", family__run=None))
    with pytest.raises(MissingArtifact, match=r"has no complete ladder"):
        family_of(tiny_study("dictionary_scaling", family__run=str(tmp_path / "nothing")))


def test_runs_of_members_share_the_items_of_the_ladder(
    tiny_study: Make, tiny_ladder: Config
) -> None:
    config = tiny_study("dictionary_scaling")
    member = family_of(config)[2]
    own = run_of(config, member)
    assert own.data.run == corpus_run(config) == tiny_ladder.url
    assert own.data.sequence_length == sequence_length(config) == 32
    assert own.url == f"{config.url}/models/llama-0.021M-seed0"
    # One of two blocks.
    assert own.hook == "resid_post.0"
    assert width_of(own) == 24


def test_dictionaries_of_both_protocols_come_once_each(tiny_study: Make) -> None:
    config = tiny_study("dictionary_scaling", study__expansions=[2, 4], study__k_shares=[0.25])
    assert sizes_at_equal_ratio(config, 16) == [
        Size(32, 4, 0), Size(32, 4, 1), Size(64, 4, 0), Size(64, 4, 1),
    ]  # fmt: skip
    assert sizes_of(config, 16) == sizes_at_equal_ratio(config, 16)
    own = with_dictionary(config, Size(64, 4, 1))
    assert own.dictionary.name == "topk-64-k4-seed1"
    assert (own.train.tokens, own.train.seed, own.dictionary.k) == (20 * 64, 1, 4)


def test_a_corpus_that_cannot_be_made_ends_the_study(tiny_study: Make, tiny_model: Path) -> None:
    config = tiny_study(
        "dictionary_scaling",
        family__kind="members",
        family__members=[{"name": "a", "path": str(tiny_model)}],
        family__run=None,
        data__paths=["nowhere.jsonl"],
    )
    with pytest.raises(CorpusError, match=r"nowhere\.jsonl"):
        study(config, lambda line: None)


def test_listed_members_are_any_models(tiny_study: Make, tiny_model: Path) -> None:
    given = {"name": "a", "path": str(tiny_model), "seed": 3, "tokens": 7, "architecture": "llama"}
    config = tiny_study(
        "dictionary_scaling", family__kind="members", family__members=[given], family__run=None
    )
    [member] = family_of(config)
    weights = json.loads((tiny_model / "config.json").read_text())
    assert member.embedding_parameters == weights["vocab_size"] * weights["hidden_size"]
    assert (member.seed, member.tokens, member.model.kind) == (3, 7, "folder")
    assert corpus_run(config) == config.url
    assert table_row(member)["tokens_per_parameter"] == 7 / member.parameters
    with pytest.raises(ConfigError, match="colour is not known"):
        family_of(
            tiny_study(
                "dictionary_scaling",
                family__kind="members",
                family__members=[{**given, "colour": 1}],
            )
        )
    with pytest.raises(ConfigError, match="no name may come twice"):
        family_of(
            tiny_study("dictionary_scaling", family__kind="members", family__members=[given, given])
        )


PYTHIA = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, {"first": 1000, "last": 143_000, "every": 1000}]


def listed(tiny_study: Make, tiny_model: Path, **given: Any) -> Config:
    member = {"name": "a", "path": str(tiny_model), "seed": 0, "tokens": 10**12, **given}
    return tiny_study("superposition", family__kind="members", family__members=[member])


def test_checkpoints_are_listed_by_their_steps(tiny_study: Make, tiny_model: Path) -> None:
    given = {"steps": PYTHIA, "tokens_per_step": 2**21, "revision": "step{step}"}
    [member] = family_of(
        changed(listed(tiny_study, tiny_model, checkpoints=given), study__random_models=False)
    )
    assert len(member.checkpoints) == 154
    assert member.checkpoints[3].name == "step4"
    assert member.checkpoints[3].tokens == 4 * 2**21
    assert member.checkpoints[-1].model.revision == "step143000"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"steps": [1], "tokens_per_step": 2, "path": "{step}-{seed}"},
            "one of path and revision",
        ),
        (
            {"steps": [1], "revision": "step{step}"},
            r"steps, tokens_per_step and one of path and rev",
        ),
        (
            {"steps": [1], "tokens_per_step": 2, "revision": "main"},
            r"one of path and revision, which holds \{step\}",
        ),
        (
            {"steps": [1], "tokens_per_step": 2, "revision": "{step}", "path": "{step}"},
            "one of path and revision",
        ),
        (
            {"steps": [{"first": 1, "last": 9}], "tokens_per_step": 2, "path": "{step}"},
            "Wanted first, last and every, from 1 on",
        ),
        (
            {
                "steps": [{"first": 1, "last": 9, "every": 0}],
                "tokens_per_step": 2,
                "path": "{step}",
            },
            "Wanted first, last and every, from 1 on",
        ),
    ],
)
def test_steps_that_cannot_be_read_are_refused(
    tiny_study: Make, tiny_model: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        family_of(listed(tiny_study, tiny_model, checkpoints=given))


def test_at_most_so_many_checkpoints_at_equal_ratios() -> None:
    steps = [0, *(2**n for n in range(10)), *range(1000, 144_000, 1000)]
    every = [Checkpoint(f"step{s}", s, ModelConfig()) for s in steps]
    chosen = [c.tokens for c in thinned(every, 8)]
    # First weights, then ratios of 143,000^(1/6) = 7.2 from 1 on, to the nearest there is.
    assert chosen == [0, 1, 8, 64, 512, 3000, 20_000, 143_000]
    assert thinned(every, 200) == tuple(every)
    assert [c.tokens for c in thinned(every, 1)] == [0, 1, 143_000]
    assert [c.tokens for c in thinned(every[1:], 2)] == [1, 143_000]
    assert thinned((), 5) == ()


def test_revisions_of_a_hub_repository_are_weights_along_a_training(
    tiny_study: Make, tiny_ladder: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Branches of a repository as the hub's own cache keeps them, read without a network."""
    source = Path(tiny_ladder.url) / "ladder" / "llama-0.013M-seed0"
    kept = tmp_path / "hub" / "models--someone--tiny"
    branches = {"main": "final", "step00": "step-000000", "step06": "step-000006"}
    for number, (branch, folder) in enumerate(branches.items()):
        commit = f"{number}" * 40
        shutil.copytree(source / folder, kept / "snapshots" / commit)
        (kept / "refs").mkdir(exist_ok=True)
        (kept / "refs" / branch).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    config = tiny_study(
        "superposition",
        family__kind="members",
        family__members=[{
            "name": "tiny", "architecture": "llama", "repo": "someone/tiny", "revision": "main",
            "seed": 0, "tokens": 4000, "checkpoints":
            {"revision": "step{step:02d}", "tokens_per_step": 128, "steps": [0, 6]},
        }],
    )  # fmt: skip
    assert [m.name for m in family_of(config)] == ["tiny", "tiny-untrained"]
    whole, text = said(config)
    assert whole, text
    rows = [r for r in rows_of(config) if r["member"] == "tiny" and r["kind"] == "activations"]
    assert [(r["state"], r["state_tokens"]) for r in rows] == [
        ("final", 4000), ("step0", 0), ("step6", 768),
    ]  # fmt: skip
    assert rows[0]["loss"] < rows[2]["loss"] < rows[1]["loss"]
