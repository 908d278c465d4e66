"""A dictionary as two files: `config.json` and `model.safetensors`. Never a pickle."""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from bathyscope.dictionaries.layout import ColumnBlock
from bathyscope.dictionaries.topk import TopK
from bathyscope.errors import ModelError
from bathyscope.values import Json

FORMAT_VERSION = 1
_TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec")


def to_files(dictionary: TopK, facts: Json) -> dict[str, bytes]:
    """The two files of a dictionary. `facts` go into config.json beside its own keys."""
    config = {
        "format_version": FORMAT_VERSION,
        "kind": dictionary.kind,
        "num_latents": dictionary.num_latents,
        "d_in": dictionary.d_in,
        "k": dictionary.k,
        "columns": [c.to_dict() for c in dictionary.columns],
        "dtype": str(dictionary.W_enc.dtype).removeprefix("torch."),
        **facts,
    }
    tensors = {name: getattr(dictionary, name).detach().cpu().contiguous() for name in _TENSORS}
    return {
        "config.json": json.dumps(config, indent=1).encode(),
        "model.safetensors": save(tensors),
    }


def from_files(config_json: bytes, safetensors: bytes) -> TopK:
    """The dictionary that `to_files` wrote, ready to encode.

    Raises `ModelError` for an unknown kind or version, for tensors that do not fit, and for
    files that are damaged.
    """
    try:
        config: Json = dict(json.loads(config_json))
        tensors = load(safetensors)
    except (ValueError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"A dictionary's config.json ({len(config_json)} bytes) and model.safetensors "
            f"({len(safetensors)} bytes) cannot be read: {error}. Copy or train it again."
        ) from error
    if config.get("kind") != TopK.kind or config.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"config.json says kind {config.get('kind')!r}, format version "
            f"{config.get('format_version')!r}. This Bathyscope reads kind 'topk', version "
            f"{FORMAT_VERSION}."
        )
    dictionary = _from_config(config)
    wanted = {name: _described(getattr(dictionary, name)) for name in _TENSORS}
    got = {name: _described(tensor) for name, tensor in tensors.items()}
    if wanted != got:
        raise ModelError(
            f"model.safetensors holds {got}, but config.json describes {wanted}. The two files "
            "belong to different dictionaries."
        )
    dictionary.load_state_dict(tensors)
    return dictionary.eval().requires_grad_(False)


def _from_config(config: Json) -> TopK:
    try:
        columns = [ColumnBlock.from_dict(c) for c in config["columns"]]
        return TopK(
            d_in=config["d_in"],
            num_latents=config["num_latents"],
            k=config["k"],
            hook_point=columns[0].hook_point,
            dtype=getattr(torch, config["dtype"]),
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(
            f"config.json does not describe a dictionary ({type(error).__name__}: {error}). "
            "Wanted d_in, num_latents, k, columns and dtype as they were written."
        ) from error


def _described(tensor: torch.Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tuple(tensor.shape), tensor.dtype
