"""The path after the harvest: each artifact is what a plain recomputation gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from bathyscope.commands.run import STAGES
from bathyscope.commands.run import run as run_stages
from bathyscope.commands.summary import of_run
from bathyscope.config import Config
from bathyscope.errors import IdentityMismatch, MissingArtifact, StoreError
from bathyscope.runs.run import Run
from bathyscope.stages.masks import kept
from bathyscope.values import HELD_OUT, TRAIN
from support import changed, listing


def test_latents_are_the_dictionary_applied_to_the_rows(finished: Run) -> None:
    dictionary = finished.dictionaries["main"]
    rows = finished.activations["resid_post.1"].items(0, 4).flatten(0, 1).float()
    wanted = dictionary.encode(rows)
    latents = finished.latents["main"]
    values, indices = (torch.from_numpy(part) for part in latents.items(0, 4))
    assert torch.equal(indices.to(torch.int32), wanted.indices)
    assert torch.equal(values, wanted.values.to(torch.bfloat16).float())


def test_decoder_rows_have_unit_norm_after_the_scale_is_folded_in(finished: Run) -> None:
    norms = finished.dictionaries["main"].W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(64))


def test_fvu_is_that_of_a_float64_recomputation(finished: Run) -> None:
    dictionary = finished.dictionaries["main"]
    rows = finished.activations["resid_post.1"]
    held_out = finished.corpus.split_range(HELD_OUT)
    x = rows.items(held_out.start, held_out.stop)[:, 1:].flatten(0, 1).float()
    x_hat = dictionary(x).double()
    wanted = (x.double() - x_hat).square().sum() / (x.double() - x.double().mean(0)).square().sum()
    found = finished.evaluations["main"]["reconstruction"][HELD_OUT]["dictionary"]
    assert found["fvu"] == pytest.approx(wanted.item(), rel=1e-6)
    assert found["num_rows"] == len(x)


def test_delta_ce_is_that_of_a_plain_forward_with_a_hook(
    finished: Run, finished_config: Config, tiny_model: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    dictionary = finished.dictionaries["main"]
    start = finished.corpus.split_range(HELD_OUT).start
    # 600 targets wanted, 30 in each item of 32 tokens.
    tokens = finished.corpus.tokens(start, start + 20)
    stored = finished.activations["resid_post.1"].items(start, start + 20).float()
    replaced = stored.clone()
    replaced[:, 1:] = dictionary(stored[:, 1:].flatten(0, 1)).view(20, 31, 32)

    def ce(activations: torch.Tensor) -> float:
        handle = model.model.layers[1].register_forward_hook(lambda *_: activations)
        with torch.no_grad():
            logits = model(tokens).logits
        handle.remove()
        losses = torch.nn.functional.cross_entropy(
            logits[:, 1:-1].flatten(0, 1), tokens[:, 2:].flatten()
        )
        return losses.item()

    found = finished.evaluations["main"]["splice"][HELD_OUT]
    assert found["targets"] == 600
    assert found["clean_ce"] == pytest.approx(ce(stored), abs=1e-5)
    delta = found["variants"]["dictionary"]["delta_ce"]
    assert delta == pytest.approx(ce(replaced) - ce(stored), abs=1e-5)


def test_controls_stand_beside_and_baselines_recover_nothing(finished: Run) -> None:
    found = finished.evaluations["main"]
    for split in (TRAIN, HELD_OUT):
        assert set(found["reconstruction"][split]) == {"dictionary", "pca", "random"}
        assert 0 < found["reconstruction"][split]["pca"]["fvu"] < 1.0
    held_out = found["splice"][HELD_OUT]["variants"]
    assert set(held_out) == {"dictionary", "pca", "random", "mean", "zero"}
    assert held_out["zero"]["loss_recovered_zero"]["value"] == 0
    assert set(found["splice"][TRAIN]["variants"]) == {"dictionary", "mean", "zero"}
    assert found["splice"][TRAIN]["targets"] == 300


def test_densities_are_counts_of_the_stored_latents(finished: Run) -> None:
    latents = finished.latents["main"]
    counts = np.zeros(64, dtype=np.int64)
    rows = 0
    for unit in latents.units():
        keep = kept(latents.masks(unit))
        of_unit = latents.of_unit(unit)
        values, indices = (part[keep] for part in of_unit.rows(0, of_unit.num_rows))
        counts += np.bincount(indices[values != 0].ravel(), minlength=64)
        rows += int(keep.sum())
    table = finished.features()
    assert table.column("count").to_pylist() == counts.tolist()
    np.testing.assert_allclose(table.column("density").to_numpy(), counts / rows)


def test_top_example_is_the_largest_activation_with_its_tokens(finished: Run) -> None:
    latents = finished.latents["main"]
    for row in finished.examples().slice(0, 200).to_pylist():
        item, position = row["item"], row["position"]
        window = slice(row["window_start"], row["window_start"] + len(row["token_ids"]))
        assert row["token_ids"] == finished.corpus.tokens(item, item + 1)[0, window].tolist()
        values, indices = (torch.from_numpy(a)[position] for a in latents.items(item, item + 1))
        assert row["value"] == values[indices == row["latent"]].item()
        assert row["activations"][position - row["window_start"]] == row["value"]


def test_promoted_tokens_are_the_largest_logits_of_the_decoder_row(
    finished: Run, tiny_model: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    direction = finished.dictionaries["main"].W_dec[5] * model.model.norm.weight
    logits = model.lm_head.weight @ direction
    wanted = torch.topk(logits - logits.mean(), 3)
    row = finished.features().slice(5, 1).to_pylist()[0]
    assert row["promoted_ids"] == wanted.indices.tolist()
    np.testing.assert_allclose(row["promoted_values"], wanted.values.detach(), rtol=1e-4)


def test_the_report_is_there_with_the_figures(finished: Run, finished_config: Config) -> None:
    page = (Path(finished_config.url) / "report" / "index.html").read_text(encoding="utf-8")
    fvu = finished.evaluations["main"]["reconstruction"][HELD_OUT]["dictionary"]["fvu"]
    assert f"{fvu:.4g}" in page
    assert "resid_post.1" in page
    assert "report/index.html" in of_run(finished_config)


def test_running_again_does_nothing(copied: Config) -> None:
    before = listing(copied.url)
    run_stages(copied)
    after = listing(copied.url)
    assert {k: v for k, v in before.items() if k != "run.json"} == {
        k: v for k, v in after.items() if k != "run.json"
    }
    stages = Run(copied.url).record["history"][-1]["stages"]
    assert {name: s["reused"] for name, s in stages.items()} == dict.fromkeys(STAGES, True)


def test_another_learning_rate_is_refused_by_name_and_keeps_the_harvest(copied: Config) -> None:
    other = changed(copied, train__lr=0.01)
    before = listing(copied.url)
    with pytest.raises(IdentityMismatch, match=r"train\.lr: 0\.003 -> 0\.01") as caught:
        run_stages(other)
    assert "dictionary.name" in str(caught.value)
    assert {k for k, v in listing(copied.url).items() if before.get(k) != v} == {"run.json"}


def test_another_name_keeps_both_dictionaries_on_one_harvest(copied: Config) -> None:
    harvest = listing(f"{copied.url}/activations.zarr")
    other = changed(copied, train__lr=0.01, dictionary__name="fast")
    run_stages(other, stages=["corpus", "harvest", "train"])
    run = Run(copied.url)
    assert list(run.dictionaries) == ["fast", "main"]
    assert not torch.equal(run.dictionaries["fast"].W_dec, run.dictionaries["main"].W_dec)
    assert listing(f"{copied.url}/activations.zarr") == harvest


def test_force_replaces_the_dictionary_and_what_follows_from_it(copied: Config) -> None:
    old = Run(copied.url).dictionaries["main"].W_dec.clone()
    run_stages(dataclasses.replace(changed(copied, train__lr=0.01), force=True))
    run = Run(copied.url)
    assert not torch.equal(run.dictionaries["main"].W_dec, old)
    rows = run.activations["resid_post.1"].items(0, 1)[0].float()
    values = run.latents["main"].items(0, 1)[0]
    wanted = run.dictionaries["main"].encode(rows).values.to(torch.bfloat16)
    assert torch.equal(torch.from_numpy(values), wanted.float())
    # Receipts and shards of what was replaced are gone.
    assert len(run.objects.at("latents.zarr/main").children("receipts")) == 1
    assert len(run.objects.at("latents.zarr/main").children("values")) == 1


def test_batches_of_the_evaluation_need_not_fit_the_units_of_the_harvest(
    finished: Run, copied: Config
) -> None:
    config = changed(copied, evaluate__batch_items=7, force=True)
    run_stages(config, stages=["evaluate"])
    wanted = finished.evaluations["main"]["reconstruction"]
    assert Run(config.url).evaluations["main"]["reconstruction"] == wanted


def test_another_corpus_is_refused_with_the_difference(copied: Config) -> None:
    with pytest.raises(IdentityMismatch, match=r"sequence_length: 32 -> 16"):
        run_stages(changed(copied, data__sequence_length=16))


def test_a_stage_without_what_it_needs_says_which_stage_makes_it(
    copied: Config, tmp_path: Path
) -> None:
    alone = dataclasses.replace(copied, url=str(tmp_path / "alone"))
    with pytest.raises(MissingArtifact, match=r"no complete corpus\.zarr"):
        run_stages(alone, stages=["harvest"])


def test_weights_that_are_not_those_of_the_manifest_are_refused(copied: Config) -> None:
    path = Path(copied.url) / "dictionaries" / "main" / "model.safetensors"
    weights = bytearray(path.read_bytes())
    weights[-1] ^= 1
    path.write_bytes(weights)
    with pytest.raises(StoreError, match="not those that its manifest describes"):
        Run(copied.url).dictionaries["main"]


def test_an_interrupted_force_leaves_the_old_dictionary_for_readers(
    copied: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Run(copied.url).dictionaries["main"].W_dec.clone()

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    forced = dataclasses.replace(changed(copied, train__lr=0.01), force=True)
    with monkeypatch.context() as patched:
        patched.setattr("bathyscope.stages.train.finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_stages(forced, stages=["train"])
    assert torch.equal(Run(copied.url).dictionaries["main"].W_dec, old)
    run_stages(forced, stages=["train"])
    assert not torch.equal(Run(copied.url).dictionaries["main"].W_dec, old)


def test_another_dictionary_on_the_harvest_has_a_report_of_its_own(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    """The whole command, as the README gives it, and the first one's report stays."""
    config = tiny_config(tmp_path / "run", train__epochs=1)
    run_stages(config)
    before = (tmp_path / "run" / "report" / "index.html").read_bytes()
    other = changed(config, dictionary__name="wide", dictionary__num_latents=96)
    run_stages(other)
    assert (tmp_path / "run" / "report" / "index.html").read_bytes() == before
    page = (tmp_path / "run" / "report-wide" / "index.html").read_text(encoding="utf-8")
    assert "wide" in page
