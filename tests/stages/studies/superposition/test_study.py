"""A study of superposition on tiny models: figures by hand, verdicts, what breaks, and a CNN."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bathyscope.config import Config
from bathyscope.errors import NonFiniteError
from bathyscope.metrics.splice import next_tokens
from bathyscope.models.hook_points import resolve
from bathyscope.models.load import load_model
from bathyscope.runs.run import Run
from bathyscope.runs.tables import from_parquet
from bathyscope.stages.masks import kept
from bathyscope.stages.studies.family import family_of
from bathyscope.stages.studies.member_runs import run_of
from bathyscope.stages.studies.superposition.activations import SAMPLE_ROWS, Spaces
from bathyscope.stages.studies.superposition.measures import FINAL, states_of
from bathyscope.stages.studies.superposition.weights import matrices_of, shuffled
from bathyscope.stages.study import subjects_of
from bathyscope.values import HELD_OUT
from studied import said
from study_models import convolutions
from support import listing

SMALL, MIDDLE, LARGE = "llama-0.013M", "llama-0.021M", "llama-0.036M"
STUDY: dict[str, Any] = {
    "study__name": "superposition",
    "study__train_tokens": 3200,
    "study__held_out_tokens": 1200,
    "study__splice_tokens": 1200,
    "study__expansions": [2],
    "study__k_shares": [0.125],
    "study__widths": [],
    "study__ks": [],
    "study__tokens_per_latent": 30,
    "study__batch_rows": 128,
    "study__resamples": 20,
}
PHOTOGRAPHS = str(Path(__file__).parents[3] / "pictures")


def table_of(config: Config) -> list[dict[str, Any]]:
    path = Path(config.url) / "studies" / "superposition" / "table.parquet"
    return from_parquet(path.read_bytes()).to_pylist()


def results_of(config: Config) -> dict[str, Any]:
    path = Path(config.url) / "studies" / "superposition" / "results.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def one(rows: list[dict[str, Any]], member: str, kind: str, **where: Any) -> dict[str, Any]:
    where = {"state": FINAL, "member": member, "kind": kind, **where}
    [found] = [r for r in rows if all(r[key] == value for key, value in where.items())]
    return found


def overlap_times_width(W: np.ndarray) -> float:
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    squares = (unit @ unit.T) ** 2
    count = len(W)
    return float((squares.sum() - count) / (count * (count - 1)) * W.shape[1])


@pytest.fixture(scope="module")
def studied(
    tiny_config: Callable[..., Config],
    tiny_ladder: Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Config, str]:
    """A finished study of three sizes and two seeds, and what was printed."""
    config = tiny_config(
        tmp_path_factory.mktemp("superposition") / "run",
        family__run=tiny_ladder.url, family__models=["llama-*"], **STUDY,
    )  # fmt: skip
    whole, text = said(config)
    assert whole
    return config, text


def test_a_finished_study_has_verdicts_rows_and_a_page(studied: tuple[Config, str]) -> None:
    config, _ = studied
    found = results_of(config)
    claims = [verdict["claim"] for verdict in found["verdicts"]]
    assert any("at equal loss" in claim for claim in claims)
    for verdict in found["verdicts"]:
        assert all(verdict[key] for key in ("controls", "doubt", "would_change"))
    rows = table_of(config)
    models = [f"{size}-seed{seed}" for size in (SMALL, MIDDLE, LARGE) for seed in (0, 1)]
    untrained = [f"{size}-seed0-untrained" for size in (SMALL, MIDDLE, LARGE)]
    assert {r["member"] for r in rows} == {*models, *untrained}
    kinds = {r["kind"] for r in rows}
    assert {"unembedding", "unembedding_frequency", "mlp_in", "mlp_out", "depth"} <= kinds
    assert {"activations", "dictionary", "dictionary_frequency"} <= kinds
    page = (Path(config.url) / "studies" / "superposition" / "index.html").read_text()
    assert "Along training: participation ratio / d" in page
    assert "Adjacent sizes at matched capability" in page
    assert page.count("<svg") >= 8


def test_the_figures_of_a_model_are_those_of_its_weights_by_hand(
    studied: tuple[Config, str], tiny_ladder: Config
) -> None:
    config, _ = studied
    rows, name = table_of(config), f"{LARGE}-seed1"
    model = AutoModelForCausalLM.from_pretrained(Path(tiny_ladder.url) / "ladder" / name / "final")
    W = model.lm_head.weight.detach().double().numpy()
    raw, centred = one(rows, name, "unembedding"), one(rows, name, "unembedding_centred")
    assert raw["overlap_times_width"] == pytest.approx(overlap_times_width(W), rel=1e-6)
    away = W - W.mean(axis=0)
    assert centred["overlap_times_width"] == pytest.approx(overlap_times_width(away), rel=1e-5)
    norms = np.linalg.norm(away, axis=1)
    own = norms**2 / ((away / norms[:, None] @ away.T) ** 2).sum(axis=1)
    assert centred["dimensionality_mean"] == pytest.approx(own.mean(), rel=1e-5)
    assert centred["shared_rows"] == pytest.approx((own < 0.5).mean())
    assert centred["dimensionality_bound"] == 32 / 300
    hook = int(raw["hook"].removeprefix("resid_post."))
    down = model.model.layers[hook].mlp.down_proj.weight.detach().double().numpy()
    assert one(rows, name, "mlp_out")["overlap_times_width"] == pytest.approx(
        overlap_times_width(down.T), rel=1e-5
    )
    mlp = model.model.layers[hook].mlp
    reads = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).detach().double().numpy()
    assert one(rows, name, "mlp_in")["overlap_times_width"] == pytest.approx(
        overlap_times_width(reads), rel=1e-5
    )


def test_losses_and_spectra_are_those_of_the_plain_model(
    studied: tuple[Config, str], tiny_ladder: Config
) -> None:
    config, _ = studied
    rows, name = table_of(config), f"{SMALL}-seed0"
    corpus = Run(tiny_ladder.url).corpus
    start = corpus.split_range(HELD_OUT).start
    stop = start + STUDY["study__splice_tokens"] // 32
    tokens = corpus.tokens(start, stop)
    keep = torch.from_numpy(kept(corpus.masks(start, stop)))
    states = {FINAL: "final", "step-000000": "step-000000"}
    for state, folder in states.items():
        path = Path(tiny_ladder.url) / "ladder" / name / folder
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        with torch.no_grad():
            found = model(input_ids=tokens, output_hidden_states=True)
        row = one(rows, name, "activations", state=state)
        x = found.hidden_states[int(row["hook"].rpartition(".")[2]) + 1][keep].double().numpy()
        values = np.linalg.eigvalsh(np.cov(x.T, bias=True))
        assert row["participation_ratio"] == pytest.approx(
            values.sum() ** 2 / (values**2).sum(), rel=1e-5
        )
        assert row["participation_ratio_share"] == pytest.approx(row["participation_ratio"] / 16)
        assert row["stable_rank"] == pytest.approx(values.sum() / values.max(), rel=1e-5)
        assert row["num_rows"] == len(x)
        assert row["two_nn_low"] < row["two_nn"] < row["two_nn_high"]
        targets, counted = next_tokens(tokens, keep)
        each = torch.nn.functional.cross_entropy(found.logits[counted], targets[counted])
        assert row["loss"] == pytest.approx(float(each), rel=1e-5)


def test_checkpoints_are_measured_once_and_the_last_one_is_the_final_weights(
    studied: tuple[Config, str],
) -> None:
    config, _ = studied
    member = family_of(config)[0]
    names = [state.name for state in states_of(run_of(config, member), member)]
    assert names[0] == FINAL
    assert len(names) == len(member.checkpoints)
    overfitted = replace(member, overfitted=True)
    assert len(list(states_of(run_of(config, member), overfitted))) == len(names) + 1
    rows = table_of(config)
    own = {r["state"] for r in rows if r["member"] == member.name}
    assert own == set(names)
    first = one(rows, member.name, "unembedding", state="step-000000")
    untrained = one(rows, f"{member.name}-untrained", "unembedding")
    assert first["overlap_times_width"] == untrained["overlap_times_width"]
    assert first["loss"] == pytest.approx(math.log(300), abs=0.1)


def test_a_second_call_finds_everything_done(studied: tuple[Config, str]) -> None:
    config, _ = studied
    assert all(known.there for known in subjects_of(config))
    before = listing(Path(config.url) / "studies" / "superposition" / "results")
    whole, text = said(config)
    assert whole
    assert listing(Path(config.url) / "studies" / "superposition" / "results") == before
    assert "at equal loss" in text


def test_what_is_broken_is_named_and_takes_no_other_with_it(
    tiny_ladder: Config, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    shutil.copytree(tiny_ladder.url, tmp_path / "ladder")
    folder = tmp_path / "ladder" / "ladder"
    damaged = folder / f"{SMALL}-seed1" / "final" / "model.safetensors"
    tensors = load_file(damaged)
    tensors["model.norm.weight"][0] = math.nan
    save_file(tensors, damaged, metadata={"format": "pt"})
    (folder / f"{LARGE}-seed0" / "final" / "model.safetensors").unlink()
    first = folder / f"{LARGE}-seed1" / "step-000000"
    config = tiny_config(
        tmp_path / "run", family__run=str(tmp_path / "ladder"),
        family__models=[f"{SMALL}-*", f"{LARGE}-*"],
        study__random_models=False, **STUDY,
    )  # fmt: skip
    tensors = load_file(first / "model.safetensors")
    tensors["model.embed_tokens.weight"][3, 3] = math.inf
    save_file(tensors, first / "model.safetensors", metadata={"format": "pt"})
    whole, text = said(config)
    assert not whole
    failures = dict(results_of(config)["failures"])
    assert set(failures) == {f"{SMALL}-seed1", f"{LARGE}-seed0", f"{LARGE}-seed1"}
    assert "NonFiniteError" in failures[f"{SMALL}-seed1"]
    assert {r["member"] for r in table_of(config)} == {f"{SMALL}-seed0"}
    for name in failures:
        assert f"FAILED {name}" in text


def test_a_convolutional_module_gives_what_it_has(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    torch.save(convolutions().state_dict(), tmp_path / "weights.pt")
    config = tiny_config(
        tmp_path / "run", family__kind="members", model__kind="module", model__path=None,
        family__members=[{
            "name": "cnn", "factory": "study_models:Convolutions", "hook": "pointwise",
            "weights": str(tmp_path / "weights.pt"), "seed": 0,
        }],
        data__kind="images", data__paths=[PHOTOGRAPHS], data__image_size=32, data__crops=24,
        data__held_out_share=0.5, data__seed=1, **STUDY,
    )  # fmt: skip
    whole, _ = said(config)
    assert whole
    rows = table_of(config)
    model = convolutions()
    weight = model.pointwise.weight.flatten(1).double().numpy()
    assert one(rows, "cnn", "layer_out")["overlap_times_width"] == pytest.approx(
        overlap_times_width(weight.T), rel=1e-5
    )
    head = model.head.weight.double().numpy()
    assert one(rows, "cnn", "unembedding")["overlap_times_width"] == pytest.approx(
        overlap_times_width(head), rel=1e-5
    )
    spaces = one(rows, "cnn", "activations")
    assert (spaces["d"], spaces["num_rows"]) == (6, 16 * 16 * 16)
    assert 1 <= spaces["participation_ratio"] <= 6
    assert spaces["loss"] is None
    kinds = {r["kind"] for r in rows}
    assert not kinds & {"unembedding_frequency", "mlp_out", "depth"}
    assert {"dictionary", "dictionary_frequency"} <= kinds
    found = results_of(config)
    assert not any("at equal loss" in v["claim"] for v in found["verdicts"])
    assert "Equal loss" not in dict(found["protocol"])


def test_shuffled_columns_keep_their_values() -> None:
    W = torch.arange(12.0).view(4, 3)
    found = shuffled(W, seed=1)
    assert torch.equal(found.sort(dim=0).values, W)
    assert not torch.equal(found, W)
    assert torch.equal(found, shuffled(W, seed=1))


def test_tokens_that_never_occur_and_rows_of_no_token_have_no_weight(tiny_model: Path) -> None:
    loaded = load_model(tiny_model, dtype=torch.float32)
    hook = resolve(loaded.model, "resid_post.0")
    counts = torch.tensor([0.0, 3.0, 1.0])
    found = {m.kind: m for m in matrices_of(loaded, hook, counts, seed=0)}
    weights = found["unembedding_frequency"].weights
    assert weights is not None
    assert weights[:3].tolist() == [0, 3, 1]
    assert not weights[3:].any()
    W = found["unembedding"].W
    assert len(weights) == len(W)
    torch.testing.assert_close(
        found["unembedding_frequency"].W, W - (3 * W[1] + W[2]) / 4, atol=1e-6, rtol=1e-5
    )
    assert found["mlp_out"].W.shape[1] == found["mlp_in"].W.shape[1] == W.shape[1]


def test_spaces_leave_out_whole_documents_and_draw_the_same_rows_in_any_batches() -> None:
    x = torch.randn(6000, 5, generator=torch.Generator().manual_seed(0))
    documents = torch.arange(60).repeat_interleave(100)
    found = []
    for step in (6000, 700):
        spaces = Spaces("hook", documents, seed=3)
        for rows in x.split(step):
            spaces.see({"hook": rows, "other": 2 * rows[:, :3]})
        found.append(spaces)
    whole, batched = found
    assert torch.equal(whole.sample, batched.sample)
    assert len(whole.sample) == SAMPLE_ROWS
    assert [part.num_rows for part in batched.parts.values()] == [300] * 20
    row = batched.figures_at_hook(seed=0)
    assert row["num_rows"] == 6000
    assert row["participation_ratio"] == pytest.approx(5, rel=0.01)
    assert row["shuffled_participation_ratio_share"] == pytest.approx(1, rel=0.01)
    assert 0 < row["participation_ratio_error"] < 0.02
    # 2,048 rows of five dimensions come out a little low; the control is no other.
    assert row["two_nn"] == pytest.approx(4.9, abs=0.4)
    assert row["two_nn_gaussian"] == pytest.approx(row["two_nn"], abs=0.4)
    assert batched.figures("other")["d"] == 3


def test_a_document_of_half_of_the_rows_is_one_part() -> None:
    documents = torch.cat([torch.zeros(500), torch.arange(1, 51).repeat_interleave(10)]).long()
    spaces = Spaces("hook", documents, seed=0)
    spaces.see({"hook": torch.randn(1000, 2)})
    assert max(part.num_rows for part in spaces.parts.values()) == 500
    assert len(spaces.parts) == 11


def test_nan_activations_are_refused() -> None:
    spaces = Spaces("hook", torch.zeros(3), seed=0)
    with pytest.raises(NonFiniteError):
        spaces.see({"hook": torch.tensor([[1.0], [math.nan], [2.0]])})
