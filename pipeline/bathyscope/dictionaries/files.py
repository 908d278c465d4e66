"""A dictionary as two files: `config.json` and `model.safetensors`. Never a pickle.

Version 2 names the kind, the activation function and the column blocks of both matrices. Version 1
had TopK autoencoders only, and is read.
"""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from bathyscope.dictionaries.activation_function import ActivationFunction
from bathyscope.dictionaries.cross_layer import CrossLayerTranscoder
from bathyscope.dictionaries.jumprelu import JumpReLU
from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import ColumnBlock
from bathyscope.errors import ConfigError, ModelError
from bathyscope.values import Json

FORMAT_VERSION = 2
_NOT_FOUND = (KeyError, IndexError, TypeError, AttributeError, ValueError)


def to_files(dictionary: AnyDictionary, facts: Json) -> dict[str, bytes]:
    """The two files of a dictionary. `facts` go into config.json beside its own keys."""
    config = {
        "format_version": FORMAT_VERSION,
        **dictionary.settings(),
        "dtype": str(dictionary.parts[0].W_enc.dtype).removeprefix("torch."),
        **facts,
    }
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in dictionary.state_dict().items()
    }
    return {
        "config.json": json.dumps(config, indent=1).encode(),
        "model.safetensors": save(tensors),
    }


def from_files(config_json: bytes, safetensors: bytes) -> AnyDictionary:
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
    dictionary = _from_config(_version_2(config))
    wanted = {name: _described(tensor) for name, tensor in dictionary.state_dict().items()}
    got = {name: _described(tensor) for name, tensor in tensors.items()}
    if wanted != got:
        raise ModelError(
            f"model.safetensors holds {got}, but config.json describes {wanted}. The two files "
            "belong to different dictionaries."
        )
    dictionary.load_state_dict(tensors)
    return dictionary.eval().requires_grad_(False)


def _version_2(config: Json) -> Json:
    """The configuration as this version writes it."""
    version, kind = config.get("format_version"), config.get("kind")
    if version == FORMAT_VERSION:
        return config
    if version == 1 and kind == "topk":
        columns = config.get("columns")
        return {
            **config,
            "kind": "autoencoder",
            "activation": "topk",
            "inputs": columns,
            "outputs": columns,
            "subtracts_b_dec": True,
        }
    raise ModelError(
        f"config.json says format version {version!r}, kind {kind!r}. This Bathyscope reads "
        f"version {FORMAT_VERSION}, and kind 'topk' of version 1."
    )


def _from_config(config: Json) -> AnyDictionary:
    try:
        inputs = tuple(ColumnBlock.from_dict(block) for block in config["inputs"])
        outputs = tuple(ColumnBlock.from_dict(block) for block in config["outputs"])
        per_layer = config["kind"] == CrossLayerTranscoder.kind
        dictionary = make_dictionary(
            config["kind"],
            inputs,
            outputs,
            activation=config["activation"],
            k=config["k"],
            num_latents=config["latents_per_layer"][0] if per_layer else config["num_latents"],
            dtype=getattr(torch, config["dtype"]),
            options=config,
            prefixes=tuple(config.get("prefixes", ())),
            subtracts_b_dec=config.get("subtracts_b_dec"),
        )
        eps = config["eps_per_layer"] if per_layer else [config.get("eps")]
        for part, of_part in zip(dictionary.parts, eps, strict=True):
            _set_eps(part.activation, of_part)
    except (*_NOT_FOUND, ConfigError) as error:
        raise ModelError(
            f"config.json does not describe a dictionary ({type(error).__name__}: {error}). "
            "Wanted kind, activation, inputs, outputs, num_latents, k and dtype as they were "
            "written."
        ) from error
    return dictionary


def _set_eps(activation: ActivationFunction, eps: float | None) -> None:
    if isinstance(activation, JumpReLU) and eps is not None:
        activation.eps = float(eps)


def _described(tensor: torch.Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tuple(tensor.shape), tensor.dtype
