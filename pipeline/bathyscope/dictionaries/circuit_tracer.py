"""circuit-tracer folders: `config.yaml` beside safetensors (0.5), read by it without conversion.

    transcoder_set           layer_L.safetensors                       one dictionary per layer
    cross_layer_transcoder   W_enc_L.safetensors, W_dec_L.safetensors  one dictionary, a CLT

Latents are rows already, and W_skip is used as x W_skipᵀ, as here. With thresholds it is JumpReLU,
else ReLU. TopK, which 0.5.0 does not load, is what later ones take `k` in a layer's file for.
BatchTopK is written as JumpReLU with one threshold. Hook points have TransformerLens' names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bathyscope.dictionaries.circuit_tracer_files import (
    CLT,
    CONFIG,
    SET,
    hook_of,
    layer_of,
    layers_in,
    listed,
    our_hook,
)
from bathyscope.dictionaries.cross_layer import CrossLayerTranscoder
from bathyscope.dictionaries.dictionary import Dictionary, filled
from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.errors import ModelError
from bathyscope.values import Json

_THRESHOLD = "activation_function.threshold"


def read(config: Json, tensors: Mapping[str, Mapping[str, Tensor]]) -> AnyDictionary:
    """The dictionary of a configuration and of the tensors by file, as circuit-tracer uses it.

    Raises `ModelError` for what it cannot be, and for tensors that are missing or do not fit.
    """
    kind = config.get("model_kind")
    found = layers_in(list(tensors))
    is_set = "layer" in found
    if kind != (SET if is_set else CLT):
        raise ModelError(
            f"{CONFIG} says model_kind {kind!r}, but the files are those of a "
            f"{SET if is_set else CLT} ({', '.join(sorted(tensors))})."
        )
    layers = found["layer" if is_set else "W_enc"]
    names = [str(config.get(f"feature_{side}_hook") or side) for side in ("input", "output")]
    if is_set:
        return _read_layer(config, next(iter(tensors.values())), layers[0], names)
    merged = {name: tensor for one in tensors.values() for name, tensor in one.items()}
    return _read_clt(config, merged, layers, names)


def write(
    dictionary: AnyDictionary, layer: int | None = None
) -> tuple[Json, dict[str, dict[str, Tensor]]]:
    """`config.yaml`, and the tensors of each file. `layer` is by the hook points where None.

    Raises `ModelError` for what circuit-tracer does not have.
    """
    kinds = ("transcoder", "skip_transcoder", CLT)
    if dictionary.kind not in kinds or dictionary.subtracts_b_dec:
        raise ModelError(
            f"circuit-tracer has no {dictionary.kind}: it has transcoders, which subtract nothing "
            "from what they read, and cross-layer transcoders."
        )
    activation = dictionary.parts[0].activation.name
    per_layer = isinstance(dictionary, Dictionary)
    if activation not in ("relu", "jumprelu", "batch_topk", *(["topk"] if per_layer else [])):
        what = "transcoders" if per_layer else "cross-layer transcoders"
        raise ModelError(
            f"circuit-tracer's {what} are ReLU or JumpReLU{', or TopK' if per_layer else ''}; "
            f"this one is {activation}."
        )
    widths = {block.width for block in (*dictionary.inputs, *dictionary.outputs)}
    if len(widths) > 1:
        raise ModelError(
            f"circuit-tracer reads and writes one width at every layer; this {dictionary.kind} "
            f"has {listed(sorted(widths))}."
        )
    hooks = [hook_of([b.hook_point for b in c]) for c in (dictionary.inputs, dictionary.outputs)]
    config: Json = {
        "model_kind": SET if per_layer else CLT,
        "feature_input_hook": hooks[0],
        "feature_output_hook": hooks[1],
        # circuit-tracer does not read these: they tell whether layers belong to one set.
        "d_model": widths.pop(),
        "d_transcoder": dictionary.parts[0].num_latents,
    }
    if activation in ("relu", "topk"):
        config["activation"] = activation
    if isinstance(dictionary, CrossLayerTranscoder):
        return config, _clt_files(dictionary)
    number = layer if layer is not None else layer_of(dictionary.outputs[0].hook_point)
    tensors = {n: t for n, t in dictionary.state_dict().items() if "." not in n}
    if "threshold" in dictionary.activation.state_dict():
        tensors[_THRESHOLD] = _threshold(dictionary)
    if activation == "topk":
        config["k"] = dictionary.k
        tensors["k"] = torch.tensor(dictionary.k)
    return config, {f"layer_{number}.safetensors": _plain(tensors)}


def _read_layer(
    config: Json, tensors: Mapping[str, Tensor], layer: int, names: list[str]
) -> Dictionary:
    tensors = dict(tensors)
    latents, d = _matrix(tensors, "W_enc")
    threshold, k = tensors.pop(_THRESHOLD, None), tensors.pop("k", None)
    said = config.get("activation")
    if k is None and said == "topk":
        k = config.get("k")
        if k is None:
            raise ModelError(
                f"{CONFIG} says activation 'topk' and no k, nor does the layer's file."
            )
    elif said not in (None, "relu", "jumprelu", "topk"):
        raise ModelError(f"{CONFIG} says activation {said!r}. Read are relu, jumprelu and topk.")
    made = make_dictionary(
        "skip_transcoder" if "W_skip" in tensors else "transcoder",
        *(columns_of([(our_hook(name, layer), d)]) for name in names),
        activation="topk" if k is not None else "relu" if threshold is None else "jumprelu",
        k=None if k is None else int(k),
        num_latents=latents,
        dtype=tensors["W_enc"].dtype,
    )
    assert isinstance(made, Dictionary)
    if threshold is not None:
        tensors["activation.threshold"] = _checked(threshold)
    return filled(made, tensors)


def _read_clt(
    config: Json, tensors: Mapping[str, Tensor], layers: Sequence[int], names: list[str]
) -> CrossLayerTranscoder:
    latents, d = _matrix(tensors, "W_enc_0")
    jumps = "threshold_0" in tensors
    made = make_dictionary(
        CLT,
        *(columns_of([(our_hook(name, layer), d) for layer in layers]) for name in names),
        activation="jumprelu" if jumps else "relu",
        k=None,
        num_latents=latents,
        dtype=tensors["W_enc_0"].dtype,
    )
    assert isinstance(made, CrossLayerTranscoder)
    wanted = {f"{n}_{i}" for i in layers for n in ("W_enc", "b_enc", "b_dec", "W_dec")}
    wanted |= {f"threshold_{i}" for i in layers} if jumps else set()
    if wanted != set(tensors):
        raise ModelError(
            f"The files hold {', '.join(sorted(tensors))}; wanted {', '.join(sorted(wanted))}."
        )
    state: dict[str, Tensor] = {"b_dec": torch.cat([tensors[f"b_dec_{i}"] for i in layers])}
    for i in layers:
        state[f"layers.{i}.W_enc"] = tensors[f"W_enc_{i}"]
        state[f"layers.{i}.b_enc"] = tensors[f"b_enc_{i}"]
        state[f"layers.{i}.W_dec"] = tensors[f"W_dec_{i}"].flatten(1)
        if jumps:
            state[f"layers.{i}.activation.threshold"] = _checked(tensors[f"threshold_{i}"])
    return filled(made, state)


def _clt_files(dictionary: CrossLayerTranscoder) -> dict[str, dict[str, Tensor]]:
    files = {}
    for i, (part, block) in enumerate(zip(dictionary.parts, dictionary.outputs, strict=True)):
        encoder = {
            f"W_enc_{i}": part.W_enc,
            f"b_enc_{i}": part.b_enc,
            f"b_dec_{i}": dictionary.b_dec[block.columns],
        }
        if "threshold" in part.activation.state_dict():
            encoder[f"threshold_{i}"] = _threshold(part)
        decoder = part.W_dec.unflatten(1, (-1, block.width))
        files[f"W_enc_{i}.safetensors"] = _plain(encoder)
        files[f"W_dec_{i}.safetensors"] = _plain({f"W_dec_{i}": decoder})
    return files


def _threshold(part: Dictionary) -> Tensor:
    return part.activation.state_dict()["threshold"].expand(part.num_latents).float()


def _checked(threshold: Tensor) -> Tensor:
    if bool((threshold < 0).any()):
        raise ModelError(
            f"{int((threshold < 0).sum())} thresholds are negative: circuit-tracer lets negative "
            "latents through them, which a dictionary here does not have."
        )
    return threshold.float()


def _matrix(tensors: Mapping[str, Tensor], name: str) -> Sequence[int]:
    if name not in tensors or tensors[name].dim() != 2:
        raise ModelError(
            f"There is no matrix {name} [latents, width]. There are "
            f"{ {n: tuple(t.shape) for n, t in tensors.items()} }."
        )
    return tensors[name].shape


def _plain(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
