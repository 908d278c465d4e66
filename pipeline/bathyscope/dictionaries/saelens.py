"""SAELens folders: `cfg.json` and `sae_weights.safetensors` (written by 6.54, read from 6.0 on).

Their maths has rows on the left, so matrices are transposed, and

    standard               ReLU                      batchtopk, matryoshka_batchtopk   BatchTopK
    topk                   TopK                      transcoder, skip_transcoder       ReLU
    jumprelu               JumpReLU                  jumprelu_(skip_)transcoder        JumpReLU
    gated                  Gated; b_enc is b_gate

`rescale_acts_by_decoder_norm` selects by pre · ‖W_dec row‖ and decodes z / ‖W_dec row‖: the norm
moves into the encoder. BatchTopK is written as they publish it: JumpReLU with one threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary, filled
from bathyscope.dictionaries.kinds import make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.errors import ModelError
from bathyscope.values import Json

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
VERSION = "6.54.12"
"""The version that is named in files that are written."""

_ACTIVATIONS = {
    "standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated",
    "batchtopk": "batch_topk", "matryoshka_batchtopk": "batch_topk", "transcoder": "relu",
    "skip_transcoder": "relu", "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip


def read(config: Json, tensors: Mapping[str, Tensor]) -> Dictionary:
    """The dictionary of such a folder, which gives what SAELens gives.

    Raises `ModelError` for an architecture or a normalisation that it cannot be, and for tensors
    that are missing or do not fit.
    """
    name = config.get("architecture", "standard")
    if name not in _ACTIVATIONS:
        raise ModelError(
            f"{CONFIG} says architecture {name!r}. Read are {', '.join(_ACTIVATIONS)}: an encoder, "
            "a selection and a decoder."
        )
    normalisation = config.get("normalize_activations", "none")
    if normalisation not in ("none", "expected_average_only_in"):
        raise ModelError(
            f"{CONFIG} says normalize_activations {normalisation!r}, which changes every row by "
            "its own statistics; a dictionary here is the same for all rows. Wanted none."
        )
    W_dec = _tensor(tensors, "W_dec", name)
    W_enc = _tensor(tensors, "W_enc", name).T.contiguous()
    metadata = config.get("metadata") or {}
    inputs = columns_of([(metadata.get("hook_name") or "", W_enc.shape[1])])
    target = metadata.get("hook_name_out") or f"{metadata.get('hook_name') or ''} out"
    outputs = columns_of([(target, W_dec.shape[1])]) if "transcoder" in name else inputs
    kind = name.removeprefix("jumprelu_") if "transcoder" in name else "autoencoder"
    made = make_dictionary(
        kind,
        inputs,
        outputs,
        activation=_ACTIVATIONS[name],
        k=_k(config, len(W_dec)),
        num_latents=len(W_dec),
        dtype=W_dec.dtype,
        subtracts_b_dec=bool(config.get("apply_b_dec_to_input", True)) and inputs == outputs,
    )
    assert isinstance(made, Dictionary)
    state = _state(name, tensors, W_enc, W_dec)
    if config.get("rescale_acts_by_decoder_norm", False):
        norms = torch.linalg.vector_norm(W_dec, dim=1)
        state["W_enc"] = W_enc * norms[:, None]
        state["b_enc"] = state["b_enc"] * norms
        state["W_dec"] = W_dec / norms[:, None]
    return filled(made, state)


def write(dictionary: Dictionary) -> tuple[Json, dict[str, Tensor]]:
    """`cfg.json` and tensors of such a folder.

    Raises `ModelError` for what SAELens does not have.
    """
    activation = dictionary.activation
    is_transcoder = dictionary.kind in ("transcoder", "skip_transcoder")
    name = {"relu": "standard", "batch_topk": "jumprelu"}.get(activation.name, activation.name)
    if is_transcoder and name in ("standard", "jumprelu"):
        name = ("jumprelu_" if name == "jumprelu" else "") + dictionary.kind
    elif dictionary.kind != "autoencoder":
        raise ModelError(
            f"SAELens has no {activation.name} {dictionary.kind.replace('_', ' ')}. It has "
            "autoencoders of every activation function, and ReLU and JumpReLU transcoders."
        )
    block = dictionary.inputs[0]
    config: Json = {
        "d_in": dictionary.d_in,
        "d_sae": dictionary.num_latents,
        "dtype": str(dictionary.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.subtracts_b_dec,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": VERSION, "hook_name": block.hook_point},
        "architecture": name,
    }
    if is_transcoder:
        config["d_out"] = dictionary.d_out
        config["metadata"]["hook_name_out"] = dictionary.outputs[0].hook_point
    if dictionary.known_k is not None:
        config["metadata"]["l0"] = dictionary.known_k
    if name == "topk":
        config |= {"k": dictionary.k, "rescale_acts_by_decoder_norm": False}
    tensors: dict[str, Tensor] = {n: t for n, t in dictionary.state_dict().items() if "." not in n}
    tensors["W_enc"] = tensors["W_enc"].T
    if name == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
        own = activation.state_dict()
        tensors |= {n: own[n] for n in ("r_mag", "b_mag")}
    if "jumprelu" in name:
        threshold = activation.state_dict()["threshold"]
        tensors["threshold"] = threshold.expand(dictionary.num_latents).float()
    return config, {n: t.detach().contiguous() for n, t in tensors.items()}


def _state(
    name: str, tensors: Mapping[str, Tensor], W_enc: Tensor, W_dec: Tensor
) -> dict[str, Any]:
    bias = "b_gate" if name == "gated" else "b_enc"
    state = {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": _tensor(tensors, bias, name),
        "b_dec": _tensor(tensors, "b_dec", name),
    }
    if "skip" in name:
        state["W_skip"] = _tensor(tensors, "W_skip", name)
    if name == "gated":
        state |= {f"activation.{n}": _tensor(tensors, n, name) for n in ("r_mag", "b_mag")}
    if "jumprelu" in name:
        state["activation.threshold"] = _tensor(tensors, "threshold", name).float()
    if "batchtopk" in name:
        state["activation.threshold"] = _tensor(tensors, "topk_threshold", name).float()
    return state


def _tensor(tensors: Mapping[str, Tensor], name: str, architecture: str) -> Tensor:
    if name not in tensors:
        raise ModelError(
            f"{WEIGHTS} has no {name!r}, which a {architecture!r} has. It has "
            f"{', '.join(sorted(tensors))}."
        )
    return tensors[name]


def _k(config: Json, num_latents: int) -> int | None:
    """The L0 that was wanted; None where the file does not say."""
    metadata = config.get("metadata") or {}
    details = metadata.get("training_architecture_details") or {}
    said = config.get("k") or details.get("k") or metadata.get("l0")
    return None if not said else min(max(round(float(said)), 1), num_latents)
