"""Two files hold a dictionary, bit for bit; files that do not fit are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from bathyscope.dictionaries.dictionary import Dictionary, topk_autoencoder
from bathyscope.dictionaries.files import FORMAT_VERSION, from_files, to_files
from bathyscope.errors import ModelError


def made(dtype: torch.dtype = torch.float32) -> Dictionary:
    torch.manual_seed(0)
    dictionary = topk_autoencoder(
        d_in=3, num_latents=5, k=2, hook_point="resid_post.1", dtype=dtype
    )
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return dictionary


def files(**changes: Any) -> tuple[bytes, bytes]:
    """Both files, with keys of config.json changed."""
    written = to_files(made(), {})
    config = {**json.loads(written["config.json"]), **changes}
    return json.dumps(config).encode(), written["model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_round_trip_gives_the_same_tensors_and_bytes(dtype: torch.dtype) -> None:
    dictionary = made(dtype)
    written = to_files(dictionary, {})
    read = from_files(written["config.json"], written["model.safetensors"])
    for name, parameter in dictionary.named_parameters():
        other = getattr(read, name)
        assert other.dtype == dtype
        assert torch.equal(other, parameter)
        assert not other.requires_grad
    assert (read.k, read.inputs, read.training) == (2, dictionary.inputs, False)
    assert to_files(read, {}) == written


def test_config_names_everything() -> None:
    config = json.loads(to_files(made(), {"scales": {"resid_post.1": 2.5}})["config.json"])
    columns = [{"hook_point": "resid_post.1", "start": 0, "stop": 3}]
    assert config == {
        "format_version": FORMAT_VERSION,
        "kind": "autoencoder",
        "activation": "topk",
        "num_latents": 5,
        "d_in": 3,
        "d_out": 3,
        "k": 2,
        "inputs": columns,
        "outputs": columns,
        "subtracts_b_dec": True,
        "prefixes": [],
        "dtype": "float32",
        "scales": {"resid_post.1": 2.5},
    }


def test_the_first_version_is_read() -> None:
    written = to_files(made(), {})
    old = {
        "format_version": 1, "kind": "topk", "num_latents": 5, "d_in": 3, "k": 2,
        "columns": [{"hook_point": "resid_post.1", "start": 0, "stop": 3}], "dtype": "float32",
    }  # fmt: skip
    read = from_files(json.dumps(old).encode(), written["model.safetensors"])
    assert to_files(read, {}) == written


def test_weights_are_plain_safetensors_with_latents_as_rows() -> None:
    tensors = load(to_files(made(), {})["model.safetensors"])
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {"W_enc": (5, 3), "W_dec": (5, 3), "b_enc": (5,), "b_dec": (3,)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "lorsa"}, "dictionary.kind is 'lorsa'"),
        ({"kind": "crosscoder"}, "a crosscoder several"),
        ({"activation": "softmax"}, "dictionary.activation is 'softmax'"),
        ({"format_version": 1}, "kind 'topk' of version 1"),
        ({"format_version": FORMAT_VERSION + 1}, f"format version {FORMAT_VERSION + 1}"),
        ({"num_latents": 6}, r"different dictionaries"),
        ({"dtype": "float16"}, r"torch\.float16.*different dictionaries"),
    ],
)
def test_files_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_files(*files(**changes))


def test_a_missing_tensor_is_refused() -> None:
    config, weights = files()
    tensors = load(weights)
    del tensors["b_enc"]
    with pytest.raises(ModelError, match=r"model\.safetensors holds .*config\.json describes"):
        from_files(config, save(tensors))


@pytest.mark.parametrize("config", [b"", b"{", b"[1]", b"null"])
def test_a_damaged_config_is_refused(config: bytes) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        from_files(config, files()[1])


@pytest.mark.parametrize("num_bytes", [0, 7, 20, 100])
def test_cut_off_weights_are_refused(num_bytes: int) -> None:
    config, weights = files()
    with pytest.raises(ModelError, match=rf"model\.safetensors \({num_bytes} bytes\)"):
        from_files(config, weights[:num_bytes])


@pytest.mark.parametrize(
    "changes", [{"inputs": []}, {"outputs": None}, {"dtype": "complex"}, {"k": "two"}, {"k": 6}]
)
def test_a_config_with_odd_values_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"config\.json does not describe"):
        from_files(*files(**changes))
