"""Device maps: complete, possible, and refused before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bathyscope.errors import ModelError
from bathyscope.models.load import load_model
from bathyscope.models.placement import choose_device_map, device_of, recorded, size_bytes


def refuse(folder: Path, device_map: Any, match: str, **options: Any) -> None:
    with pytest.raises(ModelError, match=match):
        load_model(folder, dtype=torch.float32, device_map=device_map, **options)


def test_size_counts_tied_weights_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    assert size_bytes(model) == 128
    model[1].weight = model[0].weight
    assert size_bytes(model) == 64


def test_longest_path_decides() -> None:
    device_map: Any = {"": "cpu", "a.b": "disk"}
    assert device_of("a.b.weight", device_map) == "disk"
    assert device_of("a.bc.weight", device_map) == "cpu"


def test_record_names_devices() -> None:
    assert recorded({"": 1, "a": "cpu", "b": "disk"}) == {"*": "cuda:1", "a": "cpu", "b": "disk"}


@pytest.mark.parametrize("wish", ["cpu", "auto"])
def test_does_not_fit(wish: str, llama_folder: Path) -> None:
    refuse(llama_folder, wish, "does not fit", max_memory={"cpu": 1000})


def test_fewer_layers_fit(llama_folder: Path) -> None:
    limit = {"cpu": "70KB"}
    refuse(llama_folder, "cpu", "does not fit", max_memory=limit)
    small = load_model(
        llama_folder, dtype=torch.float32, device_map="cpu", max_memory=limit,
        layers=(0, 1), head=False,
    )  # fmt: skip
    assert size_bytes(small.model) <= 70_000


def test_unreadable_memory(llama_folder: Path) -> None:
    refuse(llama_folder, "auto", "cannot be read", max_memory={"tape": "1GB"})
    refuse(llama_folder, "auto", "cannot be read", max_memory={"cpu": "much"})


def test_maps_that_cannot_work(llama_folder: Path) -> None:
    refuse(llama_folder, "widest", "Unknown device_map 'widest'")
    refuse(llama_folder, {"model.layer.0": "cpu"}, "does not have: model.layer.0")
    refuse(llama_folder, {"model": "cpu"}, "incomplete.*lm_head.weight")
    refuse(llama_folder, {"": "nowhere"}, "which is no device")
    refuse(llama_folder, {"": 99}, "GPU 99, but")
    # Configuration files turn numbers into text.
    refuse(llama_folder, {"": "99"}, "GPU 99, but")


def test_tied_weights_stay_together(sharded_folder: Path) -> None:
    refuse(sharded_folder, {"model": "cpu", "lm_head": "disk"}, "tied weights")


def test_maps_of_the_whole_model_serve_a_cut_one(llama_folder: Path) -> None:
    whole: dict[str, Any] = {f"model.layers.{n}": "cpu" for n in range(4)} | {
        "model.embed_tokens": "disk",
        "model.norm": "cpu",
        "lm_head": "cpu",
    }
    loaded = load_model(
        llama_folder, dtype=torch.float32, device_map=whole, layers=(0, 1), head=False
    )
    # The rotary tables are in no map made by hand; they run where the model runs.
    assert loaded.hf_device_map == {
        "model.embed_tokens": "disk",
        "model.layers.0": "cpu",
        "model.norm": "cpu",
        "lm_head": "cpu",
        "model.rotary_emb": "cpu",
    }


def test_a_map_of_modules_that_were_cut() -> None:
    with pytest.raises(ModelError, match="no module that is loaded"):
        choose_device_map(nn.Sequential(nn.Linear(2, 2)), {"7": "cpu"})
