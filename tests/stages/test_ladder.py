"""A ladder of tiny models through all of its stages: results, order, exact resume, early stop."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bathyscope.commands.ladder import STAGES, ladder
from bathyscope.commands.progress import Screen
from bathyscope.commands.run import Record, Step, carry_out
from bathyscope.commands.run import run as run_whole
from bathyscope.commands.verify import verify
from bathyscope.config import Config
from bathyscope.errors import ConfigError, CorpusError, IdentityMismatch, StoreError
from bathyscope.runs.run import Run
from bathyscope.runs.tables import from_parquet
from bathyscope.stages import ladder as stage
from bathyscope.stages.ladder_batches import LadderBatches
from bathyscope.stages.ladder_models import models_of, plan_of
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.verdicts import training_told
from bathyscope.training.language import LanguageTraining
from bathyscope.values import HELD_OUT, TRAIN
from support import changed, listing

RUNG = {"parameters": 36_000, "width": 32, "layers": 2, "heads": 2}
SETTINGS: dict[str, Any] = {
    "ladder__families": ["llama", "gpt2"],
    "ladder__rungs": [RUNG],
    "ladder__seeds": [0],
    "ladder__vocabulary": 300,
    "ladder__tokens": 4000,
    "ladder__batch_items": 4,
    "ladder__evaluations": 4,
    "ladder__watched_tokens": 500,
    "ladder__checkpoints": 3,
    "ladder__state_steps": 10,
}
STEPS = 4000 // (4 * 32)


class Interrupted(Exception):
    """The training was cut off."""


def said(config: Config) -> str:
    lines: list[str] = []
    ladder(config, lines.append)
    return "\n".join(lines)


def cut_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> list[int]:
    """Let a training go on for so many more steps of all models; the steps that are done."""
    done: list[int] = []
    real = LanguageTraining.advance

    def advance(self: LanguageTraining, clock: Callable[[], float]) -> None:
        if len(done) == steps:
            raise Interrupted
        done.append(self.state.step)
        real(self, clock)

    monkeypatch.setattr(LanguageTraining, "advance", advance)
    return done


def results(config: Config) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Run(config.url).ladder["models"]
    return found


@pytest.fixture(scope="module")
def climbed(
    tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, str]:
    """A finished ladder of two models, and what was printed."""
    config = tiny_config(tmp_path_factory.mktemp("ladder") / "run", **SETTINGS)
    return config, said(config)


@pytest.fixture
def corpus_only(climbed: tuple[Config, str], tmp_path: Path) -> Config:
    """The tokenizer and the corpus of that ladder, without its models."""
    shutil.copytree(climbed[0].url, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "ladder")
    return changed(climbed[0], url=str(tmp_path / "run"))


def test_the_table_has_every_model_with_its_figures(climbed: tuple[Config, str]) -> None:
    config, text = climbed
    lines = text.splitlines()
    assert lines[0].startswith("ladder     2 models: llama, gpt2 of 0.036 M parameters")
    assert lines[1].split("  ")[0] == "family"
    rows = results(config)
    assert [row["name"] for row in rows] == ["gpt2-0.036M-seed0", "llama-0.036M-seed0"]
    for row, line in zip(rows, lines[2:], strict=False):
        assert line.split()[0] == row["family"]
        assert f"{row['held_out_loss']:.3f}" in line
        assert row["tokens"] == STEPS * 128
        assert row["tokens_per_parameter"] == pytest.approx(row["tokens"] / row["parameters"])
        assert row["gap"] == pytest.approx(row["held_out_loss"] - row["train_loss"])
        assert row["seconds"] > 0
        assert row["held_out_loss"] < math.log(300)
    assert str(Path(config.url) / "ladder" / "index.html") in text


def test_folders_open_with_transformers_and_give_the_loss_of_the_table(
    climbed: tuple[Config, str],
) -> None:
    config, _ = climbed
    corpus = Run(config.url).corpus
    there = corpus.split_range(HELD_OUT)
    tokens = corpus.tokens(there.start, there.stop)
    for row in results(config):
        folder = Path(config.url) / "ladder" / row["name"] / "final"
        model, tokenizer = (
            kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer)
        )
        assert sum(p.numel() for p in model.parameters()) == row["parameters"]
        with torch.no_grad():
            loss = float(model.eval()(input_ids=tokens, labels=tokens).loss)
        assert loss == pytest.approx(row["held_out_loss"], abs=1e-5)
        # A separator stands for no text.
        spelled = [tokenizer.convert_ids_to_tokens(item[1:].tolist()) for item in tokens]
        length = sum(len(word) for item in spelled for word in item if word != "<|endoftext|>")
        bits = row["held_out_loss"] * row["held_out_targets"] / math.log(2) / length
        assert row["bits_per_byte"] == pytest.approx(bits)


def test_checkpoints_lie_along_the_training_as_folders_of_their_own(
    climbed: tuple[Config, str],
) -> None:
    config, _ = climbed
    for model in models_of(config):
        folder = Path(config.url) / "ladder" / model.name
        saved = sorted(plan_of(config, model).saved)
        assert saved == [0, 1, 6, STEPS]
        wanted = {f"step-{step:06d}" for step in saved}
        assert {p.name for p in folder.iterdir() if p.is_dir()} == {*wanted, "final"}
        first = AutoModelForCausalLM.from_pretrained(folder / "step-000000")
        assert float(next(first.parameters()).detach().std()) == pytest.approx(0.02, abs=0.002)
        curve = from_parquet((folder / "curve.parquet").read_bytes()).to_pylist()
        assert [p["step"] for p in curve] == sorted(plan_of(config, model).evaluated)


def test_all_models_see_the_same_sequences_in_the_same_order(climbed: tuple[Config, str]) -> None:
    config, _ = climbed
    corpus = Run(config.url).corpus
    batches = LadderBatches(corpus, 4)
    train, steps = corpus.split_range(TRAIN), batches.steps_per_epoch
    assert steps == (train.stop - train.start) // 4
    epochs = [[batches.items(e * steps + s) for s in range(steps)] for e in range(2)]
    for epoch in epochs:
        seen = sorted(item for batch in epoch for item in batch)
        assert seen == list(range(train.start, train.start + 4 * steps))
    # Neighbours in the corpus are neighbours in time; in the second epoch others meet.
    assert epochs[0][1] == [item + 1 for item in epochs[0][0]]
    assert {frozenset(b) for b in epochs[0]}.isdisjoint({frozenset(b) for b in epochs[1]})
    for step in (0, steps - 1, steps, 70, 3):
        expected = torch.cat([corpus.tokens(item, item + 1) for item in batches.items(step)])
        assert torch.equal(batches.batch(step), expected)


def test_an_interrupted_ladder_ends_with_the_same_bits_and_repeats_no_model(
    climbed: tuple[Config, str], corpus_only: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        cut_after(patch, STEPS + 17)
        with pytest.raises(Interrupted):
            said(corpus_only)
    with monkeypatch.context() as patch:
        again = cut_after(patch, 10**6)
        said(corpus_only)
    # The first model is done; the second goes on from the state after its tenth step.
    assert again == list(range(10, STEPS))
    files = [listing(Path(c.url) / "ladder") for c in (climbed[0], corpus_only)]
    weights = [{k: v for k, v in found.items() if "/step-" in k or "/final/" in k}
               for found in files]  # fmt: skip
    assert weights[0] == weights[1]
    assert len(weights[0]) > 20
    timeless = [[{**row, "seconds": 0} for row in results(c)] for c in (climbed[0], corpus_only)]
    assert timeless[0] == timeless[1]
    assert not any(key.startswith("states") for key in files[1])


def test_a_damaged_state_is_named(corpus_only: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        cut_after(patch, 12)
        with pytest.raises(Interrupted):
            said(corpus_only)
    [state] = (Path(corpus_only.url) / "ladder" / "states").rglob("*.safetensors")
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    with pytest.raises(StoreError, match=r"000000\.safetensors in .* is damaged"):
        said(corpus_only)


def test_a_model_that_gets_no_better_stops_and_keeps_its_best_weights(
    corpus_only: Config,
) -> None:
    config = changed(
        corpus_only, ladder__tokens=60_000, ladder__most_epochs=10, ladder__evaluations=40,
        ladder__lr=0.1, ladder__patience=3, ladder__families=["llama"],
    )  # fmt: skip
    text = said(config)
    [row] = results(config)
    assert row["stopped_early"]
    assert row["best_tokens"] < row["tokens"] < 60_000
    curve = from_parquet(
        (Path(config.url) / "ladder" / row["name"] / "curve.parquet").read_bytes()
    ).to_pylist()
    best = min(curve, key=lambda point: point["held_out_loss"])
    assert best["tokens"] == row["best_tokens"]
    assert curve[-3]["step"] > best["step"]
    page = (Path(config.url) / "ladder" / "index.html").read_text()
    assert "1 stopped early" in page
    assert "llama" in text


def test_given_again_there_is_nothing_to_do_and_other_settings_are_refused(
    climbed: tuple[Config, str], tmp_path: Path
) -> None:
    shutil.copytree(climbed[0].url, tmp_path / "run")
    config = changed(climbed[0], url=str(tmp_path / "run"))
    before = listing(Path(config.url) / "ladder")
    assert said(config).splitlines()[1:] != []
    assert listing(Path(config.url) / "ladder") == before
    other = changed(config, ladder__lr=0.02)
    with pytest.raises(IdentityMismatch, match=r"training\.lr: 0\.004 -> 0\.02"):
        said(other)
    # What may change between a stop and going on is no part of it.
    said(changed(config, ladder__state_steps=7, ladder__most_epochs=3))


def test_force_replaces_and_removes_models_that_are_no_part_of_it(
    climbed: tuple[Config, str], tmp_path: Path
) -> None:
    shutil.copytree(climbed[0].url, tmp_path / "run")
    config = changed(
        climbed[0], url=str(tmp_path / "run"), ladder__families=["gpt2"],
        ladder__tokens=2000, force=True,
    )  # fmt: skip
    said(config)
    folders = {p.name for p in (tmp_path / "run" / "ladder").iterdir() if p.is_dir()}
    assert "llama-0.036M-seed0" not in folders
    assert "gpt2-0.036M-seed0" in folders
    assert [row["tokens"] for row in results(config)] == [2000 // 128 * 128]


def test_verify_compares_the_weights_with_what_was_trained(
    climbed: tuple[Config, str], tmp_path: Path
) -> None:
    shutil.copytree(climbed[0].url, tmp_path / "run")
    config = changed(climbed[0], url=str(tmp_path / "run"))
    assert verify(config, lambda text: None)
    weights = tmp_path / "run/ladder/gpt2-0.036M-seed0/final/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"none")
    lines: list[str] = []
    assert not verify(config, lines.append)
    assert any("gpt2-0.036M-seed0/final/model.safetensors holds other bytes" in x for x in lines)


def test_the_rest_of_the_house_reads_a_rung(
    climbed: tuple[Config, str], tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Corpus and harvest on a checkpoint, against the model as transformers runs it."""
    folder = Path(climbed[0].url) / "ladder" / "gpt2-0.036M-seed0" / "step-000006"
    config = tiny_config(
        tmp_path / "run", model__path=str(folder), hooks__points=["resid_post.0"],
        data__train_tokens=2000, data__held_out_tokens=500,
    )  # fmt: skip
    run_whole(config, stages=["corpus", "harvest"])
    run = Run(config.url)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        found = model(input_ids=run.corpus.tokens(0, 2), output_hidden_states=True)
    rows = run.activations["resid_post.0"].items(0, 2)
    # Stores hold bfloat16.
    torch.testing.assert_close(rows.float(), found.hidden_states[1], atol=1e-6, rtol=2**-8)


def test_the_tokenizer_knows_training_text_only(
    climbed: tuple[Config, str], tiny_text: Path, tmp_path: Path
) -> None:
    """Held-out text that changes leaves the tokenizer as it is."""
    config = climbed[0]
    run = Run(config.url)
    table = from_parquet(run.corpus.objects.get(run.corpus.facts["documents_key"])).to_pylist()
    held_out = {row["name"] for row in table if row["split"] == HELD_OUT}
    lines = [json.loads(line) for line in tiny_text.read_text().splitlines()]
    kept = [json.dumps(line) for line in lines if line["id"] not in held_out]
    assert len(kept) < len(lines)
    (tmp_path / "train.jsonl").write_text("\n".join(kept))
    other = changed(config, url=str(tmp_path / "run"), data__paths=[str(tmp_path / "train.jsonl")])
    steps = (Step(name, name, other) for name in STAGES[:1])
    carry_out(other, steps, record=Record(other.url, {}, [], "ladder"), screen=Screen())
    files = [listing(Path(c.url) / "tokenizer" / "files") for c in (config, other)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"ladder__tokens": 10**6},
            CorpusError,
            r"tokens is 1,000,000, and the corpus has 9,600 t",
        ),
        ({"ladder__tokens": 100}, CorpusError, r"tokens is 100, less than one step of 128"),
        (
            {"ladder__tokens_per_parameter": 0.001},
            CorpusError,
            r"tokens_per_parameter is 0\.001, 0 to 0 tokens of a model, less than one step of 128",
        ),
        (
            {"ladder__tokens_per_parameter": 1.0},
            ConfigError,
            r"=1 asks for 3\d,\d{3} tokens of llama-0\.036M-seed0, and ladder\.tokens allows "
            r"4,000\. Ask for 0\.1\d+ at most",
        ),
        (
            {"ladder__tokens_per_parameter": 20.0, "ladder__tokens": 10**6},
            CorpusError,
            r"tokens_per_parameter is 20, 7\d\d,\d{3} to .* ask for fewer ladder\.tokens_per_param",
        ),
        ({"ladder__batch_items": 10**5}, CorpusError, r"a step takes 100000\. Give more text"),
        ({"ladder__rungs": []}, ConfigError, r"choose ladder=cpu or ladder=gpu"),
        ({"ladder__seeds": [0, 0]}, ConfigError, r"At least one of each is wanted, and none twice"),
        ({"ladder__rungs": [{"width": 3}]}, ConfigError, r"is \{'width': 3\}\. It has to have par"),
        ({"ladder__rungs": [{**RUNG, "layers": 0}]}, ConfigError, r"Numbers above 0 are wanted"),
        ({"ladder__rungs": [{**RUNG, "heads": 5}]}, ConfigError, r"width 32 and 5 heads"),
        ({"data__also": ["nlp_corpus"]}, CorpusError, r"without its file\. `npm pack nlp-corpus"),
        (
            {"data__also": ["linux_doc"], "data__linux_doc": "/nowhere"},
            CorpusError,
            r"/nowhere holds no kernel documentation .* `apt-get install linux-doc`",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_is(
    corpus_only: Config, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        said(changed(corpus_only, **settings))
    assert not (Path(corpus_only.url) / "ladder").exists() or not list(
        (Path(corpus_only.url) / "ladder").glob("*seed*")
    )


def test_every_model_sees_as_many_tokens_for_each_parameter(corpus_only: Config) -> None:
    rungs = [{**RUNG, "parameters": 18_000, "width": 16}, RUNG]
    config = changed(
        corpus_only,
        ladder__families=["llama"],
        ladder__rungs=rungs,
        ladder__tokens_per_parameter=0.1,
    )
    text = said(config)
    small, large = results(config)
    for row in (small, large):
        # Whole steps of 128 tokens, the nearest number.
        assert abs(row["tokens"] - 0.1 * row["parameters"]) <= 64
    assert f"{small['tokens']:,} to {large['tokens']:,} tokens each" in text.splitlines()[0]
    # Each learning rate comes to its own end.
    assert plan_of(config, models_of(config)[0]).num_steps == small["steps"]
    assert plan_of(config, models_of(config)[1]).num_steps == large["steps"]
    members = family_of(changed(config, family__run=config.url, study__random_models=False))
    assert training_told(members) == ""


def test_a_ladder_from_before_this_setting_is_still_itself(climbed: tuple[Config, str]) -> None:
    training = stage.units(climbed[0]).identity["training"]
    assert "tokens_per_parameter" not in training
    config = changed(climbed[0], ladder__tokens_per_parameter=0.05)
    assert stage.units(config).identity["training"] == {**training, "tokens_per_parameter": 0.05}


def test_a_unit_is_a_model_and_smaller_ones_of_the_first_seed_come_first(
    climbed: tuple[Config, str],
) -> None:
    rungs = [{**RUNG, "parameters": 40_000}, RUNG]
    config = changed(climbed[0], ladder__rungs=rungs, ladder__seeds=[1, 0])
    assert [model.name for model in models_of(config)] == [
        "llama-0.036M-seed1", "gpt2-0.036M-seed1", "llama-0.04M-seed1", "gpt2-0.04M-seed1",
        "llama-0.036M-seed0", "gpt2-0.036M-seed0", "llama-0.04M-seed0", "gpt2-0.04M-seed0",
    ]  # fmt: skip
    assert stage.units(config).plan.num_units == 8
