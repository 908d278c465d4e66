"""The harvest stage: stored rows are the model's own hidden states, whatever the units."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import HookPointError, IdentityMismatch, NonFiniteError
from bathyscope.runs.run import Run
from bathyscope.stages import harvest
from bathyscope.stages.masks import kept
from bathyscope.stores.receipts import Receipts
from bathyscope.values import TRAIN


def test_rows_are_the_hidden_states_of_the_plain_model(finished: Run, tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokens = finished.corpus.tokens(8, 12)
    with torch.no_grad():
        wanted = model(tokens, output_hidden_states=True).hidden_states[2]
    rows = finished.activations["resid_post.1"].items(8, 12)
    assert rows.dtype == torch.bfloat16
    assert torch.equal(rows, wanted.to(torch.bfloat16))


def test_rows_of_a_bfloat16_model_are_its_hidden_states_bit_for_bit(
    tiny_config: Callable[..., Config], tmp_path: Path, tiny_model: Path
) -> None:
    config = tiny_config(tmp_path / "run", model__dtype="bfloat16")
    run_stages(config, stages=["corpus", "harvest"])
    run = Run(config.url)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    with torch.no_grad():
        wanted = model(run.corpus.tokens(8, 12), output_hidden_states=True).hidden_states[2]
    rows = run.activations["resid_post.1"].items(8, 12)
    assert rows.dtype == torch.bfloat16
    assert torch.equal(rows, wanted)


def test_a_padded_last_batch_has_no_trace(finished: Run, tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    last = finished.corpus.num_items
    with torch.no_grad():
        wanted = model(
            finished.corpus.tokens(last - 1, last), output_hidden_states=True
        ).hidden_states[2]
    rows = finished.activations["resid_post.1"].items(last - 1, last)
    torch.testing.assert_close(rows.float(), wanted, rtol=2**-7, atol=1e-5)


def test_small_runs_are_cut_into_eight_units_or_more(finished: Run) -> None:
    assert len(finished.activations["resid_post.1"].readers[0].units) >= 8


def test_moments_in_receipts_are_those_of_the_rows(finished: Run) -> None:
    rows = finished.activations["resid_post.1"]
    train = finished.corpus.split_range(TRAIN)
    x = rows.items(train.start, train.stop)[:, 1:].double().flatten(0, 1)
    moments = rows.moments(TRAIN, kept)
    assert moments.n == len(x)
    np.testing.assert_allclose(moments.mean, x.mean(0).numpy(), rtol=1e-5, atol=1e-6)
    deviation = (x - x.mean(0)).square().mean().item()
    assert moments.mean_squared_deviation == pytest.approx(deviation, rel=1e-4)


def test_several_hook_points_in_one_pass(
    tiny_config: Callable[..., Config], tmp_path: Path, finished: Run
) -> None:
    points = ["resid_post.1", "model.layers.0.mlp.gate_proj", "attn_out.2"]
    config = tiny_config(tmp_path / "run", hooks__points=points, dictionary__hook="resid_post.1")
    run_stages(config, stages=["corpus", "harvest"])
    run = Run(config.url)
    assert {n: r.width for n, r in run.activations.items()} == dict(
        zip(points, [32, 64, 32], strict=True)
    )
    one = finished.activations["resid_post.1"].items(0, 4)
    assert torch.equal(run.activations["resid_post.1"].items(0, 4), one)


@pytest.fixture
def own_model(
    tiny_config: Callable[..., Config], tiny_model: Path, tmp_path: Path
) -> tuple[Config, Path]:
    """A run with its corpus, and the folder of its model, which a test may change."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = tiny_config(tmp_path / "run", model__path=str(folder))
    run_stages(config, stages=["corpus"])
    return config, folder


def test_another_tokenizer_under_the_same_folder_is_refused_before_any_work(
    own_model: tuple[Config, Path],
) -> None:
    config, folder = own_model
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"the"', '"eht"', 1) + " ")
    with pytest.raises(IdentityMismatch, match=r"made with the tokenizer sha256:.*holds sha256:"):
        run_stages(config, stages=["harvest"])
    assert not (Path(config.url) / "activations.zarr").exists()


def test_another_model_under_the_same_folder_is_refused_before_it_is_loaded(
    own_model: tuple[Config, Path], broken_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = own_model
    work = harvest.units(config)
    shutil.copy(broken_model / "model.safetensors", folder)
    monkeypatch.setattr(harvest, "load_for_hooks", None)
    with pytest.raises(IdentityMismatch, match=r"is another model .*\n  model\.safetensors: "):
        harvest.open(config, work)


def test_unknown_hook_point_lists_near_matches_before_any_work(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path / "run", hooks__points=["resid_pots.1"])
    with pytest.raises(HookPointError, match=r"resid_post\.1"):
        run_stages(config)
    assert not (tmp_path / "run" / "run.json").exists()


def test_nan_stops_the_unit_and_names_the_hook_point(
    tiny_config: Callable[..., Config], broken_model: Path, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path / "run", model__path=str(broken_model))
    with pytest.raises(NonFiniteError, match=r"resid_post\.1 .*item \d+, position 0"):
        run_stages(config, stages=["corpus", "harvest"])
    objects = Run(config.url).objects.at("activations.zarr")
    (segment,) = objects.children("leases")
    assert Receipts(objects, segment).units().tolist() == []


def test_what_experts_return_has_a_row_for_every_token(
    tiny_config: Callable[..., Config], tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixtral"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    vocabulary = AutoModelForCausalLM.from_pretrained(tiny_model).config.vocab_size
    mixtral = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
            num_experts_per_tok=2, max_position_embeddings=64,
        )
    ).eval()  # fmt: skip
    mixtral.save_pretrained(folder)
    points = ["model.layers.1.mlp.experts", "mlp_out.1"]
    config = tiny_config(
        tmp_path / "run",
        model__path=str(folder),
        hooks__points=points,
        dictionary__hook=points[1],
    )
    run_stages(config, stages=["corpus", "harvest"])
    run = Run(config.url)
    # Experts see [batch · positions, d]: the rows are those of the positions all the same.
    seen: list[torch.Tensor] = []
    mixtral.get_submodule(points[0]).register_forward_hook(lambda *a: seen.append(a[-1]))
    with torch.no_grad():
        mixtral(run.corpus.tokens(8, 12))
    rows = run.activations[points[0]].items(8, 12)
    assert rows.shape == (4, 32, 32)
    torch.testing.assert_close(rows.float(), seen[0].view(4, 32, 32), rtol=2**-7, atol=1e-5)
    assert torch.equal(rows, run.activations[points[1]].items(8, 12)), "nothing is added to them"
