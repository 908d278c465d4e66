"""Shapes without weights: widths of hook points, counts, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers as hf

from bathyscope.errors import HookPointError
from bathyscope.models.shapes import model_shape


def test_aliases_have_the_width_of_the_residual_stream(llama_folder: Path) -> None:
    shape = model_shape(llama_folder, ["resid_post.1", "mlp_in.0"])
    assert shape.widths == [32, 32]
    assert shape.num_layers == 4
    assert shape.context_length == 64
    assert shape.vocabulary == 128


def test_parameters_of_a_llama_by_hand(llama_folder: Path) -> None:
    # Embedding and unembedding, then per block q, k, v, o (grouped: 2 of 4 heads), MLP, 2 norms.
    block = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32
    assert model_shape(llama_folder, ["resid_post.0"]).num_parameters == (
        2 * 128 * 32 + 4 * block + 32
    )


def test_tied_weights_count_once(sharded_folder: Path, llama_folder: Path) -> None:
    tied = model_shape(sharded_folder, ["resid_post.0"]).num_parameters
    assert model_shape(llama_folder, ["resid_post.0"]).num_parameters - tied == 128 * 32


@pytest.mark.parametrize("family", ["llama_folder", "gpt2_folder", "neox_folder"])
def test_module_paths_are_measured_on_an_empty_model(
    family: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    path, width = {
        "llama_folder": ("model.layers.2.mlp.gate_proj", 64),
        "gpt2_folder": ("transformer.h.1.mlp.c_fc", 128),
        "neox_folder": ("gpt_neox.layers.0.mlp.dense_h_to_4h", 64),
    }[family]
    assert model_shape(folder, [path]).widths == [width]


def test_a_tensor_that_is_not_per_position_is_refused(llama_folder: Path) -> None:
    # Rotary tables are [1, positions, head width]: no batch axis.
    with pytest.raises(HookPointError, match=r"Wanted \[items, positions, d\]"):
        model_shape(llama_folder, ["model.rotary_emb"])


def test_an_unknown_name_lists_near_matches(llama_folder: Path) -> None:
    with pytest.raises(HookPointError, match=r"resid_post\.1"):
        model_shape(llama_folder, ["resid_psot.1"])


def test_a_model_that_takes_no_finished_mask_is_measured_too() -> None:
    config = hf.BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4)
    shape = model_shape(config, ["transformer.h.1.mlp.dense_h_to_4h"])
    assert shape.widths == [128]


def test_a_model_that_does_not_run_without_data_is_refused_with_the_reason(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise TypeError("no such argument")

    monkeypatch.setattr("bathyscope.models.shapes.capture", broken)
    with pytest.raises(HookPointError, match=r"cannot be found without weights: TypeError: no suc"):
        model_shape(llama_folder, ["model.layers.1.mlp.gate_proj"])
