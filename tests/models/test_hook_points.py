"""Names become modules and sides, and wrong names become useful errors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bathyscope.errors import HookPointError
from bathyscope.models.families import ALIAS_KINDS, FAMILIES
from bathyscope.models.hook_points import HookPoint, layer_numbers, layers_needed, resolve
from bathyscope.models.load import load_model, read_config


@pytest.mark.parametrize(
    ("name", "path", "side"),
    [
        ("resid_pre.2", "model.layers.2", "in"),
        ("resid_mid.2", "model.layers.2.post_attention_layernorm", "in"),
        ("resid_post.2", "model.layers.2", "out"),
        ("attn_out.2", "model.layers.2.self_attn", "out"),
        ("mlp_in.2", "model.layers.2.mlp", "in"),
        ("mlp_out.2", "model.layers.2.mlp", "out"),
        ("model.layers.2.mlp.up_proj", "model.layers.2.mlp.up_proj", "out"),
        ("model.layers.2.mlp.up_proj:in", "model.layers.2.mlp.up_proj", "in"),
    ],
)
def test_llama_names(name: str, path: str, side: str, llama_folder: Path, plain: Any) -> None:
    wanted = HookPoint(name, path, "in" if side == "in" else "out", 2)
    assert resolve(plain(llama_folder), name) == wanted
    assert resolve(read_config(llama_folder), name) == wanted


def test_post_norm_families_read_after_the_norm(gemma_folder: Path, plain: Any) -> None:
    model = plain(gemma_folder)
    assert resolve(model, "attn_out.1").path == "model.layers.1.post_attention_layernorm"
    assert resolve(model, "resid_mid.1").path == "model.layers.1.pre_feedforward_layernorm"
    assert resolve(model, "mlp_out.1").path == "model.layers.1.mlp"


def test_every_family_names_modules_that_exist(folders: dict[str, Path], plain: Any) -> None:
    for model_type, folder in folders.items():
        model, family = plain(folder), FAMILIES[model_type]
        for path in (family.embedding, family.final_norm, family.unembedding, family.blocks):
            assert isinstance(model.get_submodule(path), nn.Module)
        assert isinstance(
            model.get_submodule(f"{family.blocks}.0.{family.attention_out}"), nn.Module
        )
        for kind in ALIAS_KINDS:
            if not (kind == "resid_mid" and family.is_parallel(model.config)):
                model.get_submodule(resolve(model, f"{kind}.1").path)


def test_points_outside_blocks_have_no_layer(llama_folder: Path, plain: Any) -> None:
    model = plain(llama_folder)
    head = resolve(model, "lm_head:in")
    assert (head.layer, head.side) == (None, "in")
    assert layers_needed([resolve(model, "resid_post.2"), head]) is None


def test_layers_needed_reach_the_last_point(llama_folder: Path) -> None:
    config = read_config(llama_folder)
    points = [resolve(config, name) for name in ("mlp_out.0", "resid_post.2")]
    assert layers_needed(points) == (0, 3)
    assert layers_needed([]) is None


def test_layer_out_of_range_says_how_many(llama_folder: Path, plain: Any) -> None:
    for source in (plain(llama_folder), read_config(llama_folder)):
        with pytest.raises(HookPointError, match=r"layer 4, but the model has 4 layers"):
            resolve(source, "resid_post.4")


def test_cut_model_keeps_the_numbers_of_its_layers(llama_folder: Path) -> None:
    tail = load_model(llama_folder, dtype=torch.float32, layers=(2, 4)).model
    assert layer_numbers(tail) == [2, 3]
    assert resolve(tail, "mlp_out.3").path == "model.layers.3.mlp"
    with pytest.raises(HookPointError, match="layers 2 to 3 can be used"):
        resolve(tail, "mlp_out.1")


def test_parallel_blocks_have_no_middle(neox_folder: Path, plain: Any) -> None:
    with pytest.raises(HookPointError, match="in parallel"):
        resolve(plain(neox_folder), "resid_mid.0")
    serial = read_config(neox_folder)
    serial.use_parallel_residual = False
    assert resolve(serial, "resid_mid.0").path == "gpt_neox.layers.0.post_attention_layernorm"


@pytest.mark.parametrize(
    ("name", "near"),
    [("resid_pots.1", "resid_post.1"), ("model.layers.1.mpl", "model.layers.1.mlp")],
)
def test_misspelled_names_list_near_matches(
    name: str, near: str, llama_folder: Path, plain: Any
) -> None:
    with pytest.raises(HookPointError, match=f"Near matches: .*{near}"):
        resolve(plain(llama_folder), name)


@pytest.mark.parametrize("name", ["", ":in", "resid_post", "resid_post.x", "resid_post.-1"])
def test_names_of_nothing(name: str, llama_folder: Path, plain: Any) -> None:
    for source in (plain(llama_folder), read_config(llama_folder)):
        with pytest.raises(HookPointError, match="No hook point"):
            resolve(source, name)


def test_a_side_is_in_or_out(llama_folder: Path, plain: Any) -> None:
    with pytest.raises(HookPointError, match="the side 'inside'"):
        resolve(plain(llama_folder), "model.layers.0:inside")


def test_any_module_has_paths_but_no_aliases() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert resolve(model, "0") == HookPoint("0", "0", "out", None)
    assert layer_numbers(model) == []
    with pytest.raises(HookPointError, match="needs a model family"):
        resolve(model, "resid_post.0")


def test_unknown_family_from_config_alone() -> None:
    config = SimpleNamespace(model_type="strange", num_hidden_layers=2)
    assert resolve(config, "encoder.3.mlp:in").side == "in"
    with pytest.raises(HookPointError, match="'strange' is none of"):
        resolve(config, "mlp_in.0")
