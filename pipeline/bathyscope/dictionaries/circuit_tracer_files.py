"""Names in circuit-tracer folders: which files they have, for which layers, and of which hooks."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml  # type: ignore[import-untyped]

from bathyscope.errors import ModelError
from bathyscope.values import Json

CONFIG = "config.yaml"
SET, CLT = "transcoder_set", "cross_layer_transcoder"
_FILE = re.compile(r"(layer|W_enc|W_dec)_(\d+)\.safetensors")
_HOOKS = {"resid_mid": "hook_resid_mid", "mlp_in": "mlp.hook_in", "mlp_out": "mlp.hook_out"}
"""Ours -> TransformerLens'. Its hook_mlp_out comes after a post-norm, where there is one."""


def to_yaml(config: Json) -> bytes:
    """A configuration as `config.yaml` holds it."""
    return bytes(yaml.safe_dump(config), "utf-8")


def from_yaml(data: bytes) -> object:
    """What `config.yaml` holds. Raises `ValueError` where it is no YAML of plain values."""
    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def layers_in(names: Sequence[str]) -> dict[str, list[int]]:
    """The layers that files of each role (`layer`, `W_enc`, `W_dec`) are there for."""
    found: dict[str, list[int]] = {}
    for name in names:
        if match := _FILE.fullmatch(name):
            found.setdefault(match[1], []).append(int(match[2]))
    return {role: sorted(layers) for role, layers in found.items()}


def files_of_layer(names: Sequence[str], layer: int | None) -> list[str]:
    """What is read for one layer of a set (of its only one: `layer` None), or for a whole CLT.

    Raises `ModelError` for a mixture of both, and for layers that are missing.
    """
    found = layers_in(names)
    if "layer" in found and len(found) > 1:
        raise ModelError(
            "The folder has the files of a set of transcoders (layer_0.safetensors) and of a "
            "cross-layer transcoder (W_enc_0.safetensors). Keep those of one."
        )
    if "layer" in found:
        chosen = found["layer"] if layer is None else [layer]
        if len(chosen) != 1 or chosen[0] not in found["layer"]:
            raise ModelError(
                f"The folder is a set of transcoders of layers {listed(found['layer'])}, and each "
                f"is a dictionary; wanted one of these, got {layer}."
            )
        return [CONFIG, f"layer_{chosen[0]}.safetensors"]
    if layer is not None:
        raise ModelError(f"A cross-layer transcoder is one dictionary: it has no layer {layer}.")
    everywhere = sorted({number for layers in found.values() for number in layers})
    for role in ("W_enc", "W_dec"):
        complete(found.get(role, []), max(everywhere, default=-1), f"{role}_%d.safetensors")
    return [CONFIG, *(f"{role}_{n}.safetensors" for n in everywhere for role in sorted(found))]


def complete(layers: Sequence[int], last: int, name: str) -> None:
    """Raise `ModelError` where layers from 0 to the last are missing, with the files' names."""
    missing = sorted({*range(last + 1)} - {*layers})
    if missing or last < 0:
        raise ModelError(
            f"Layers are missing: there is no {', '.join(name % n for n in missing or [0])}. "
            f"Wanted one of every layer from 0 on; there are {listed(layers)}."
        )


def layer_of(hook_point: str) -> int:
    """The layer in a hook point's name. Raises `ModelError` where there is none."""
    numbers = [part for part in hook_point.split(".") if part.isdigit()]
    if not numbers:
        raise ModelError(
            f"The hook point {hook_point!r} does not name a layer. Say which it is: convert.layer=3"
        )
    return int(numbers[0])


def our_hook(theirs: str, layer: int) -> str:
    """The hook point that circuit-tracer means at a layer: an alias where there is one."""
    for ours, name in _HOOKS.items():
        if name == theirs:
            return f"{ours}.{layer}"
    return f"blocks.{layer}.{theirs}"


def hook_of(hook_points: Sequence[str]) -> str:
    """What circuit-tracer calls these hook points, without their layers."""
    found = set()
    for name in hook_points:
        kind, _, layer = name.partition(".")
        theirs = re.fullmatch(r"blocks\.\d+\.(.+)", name)
        if not theirs and not (kind in _HOOKS and layer.isdigit()):
            raise ModelError(
                f"The hook point {name!r} has no name in circuit-tracer, which knows "
                f"{', '.join(f'{ours}.L as {there}' for ours, there in _HOOKS.items())}, and any "
                "blocks.L.NAME. Say what it is: convert.inputs=[mlp_in.3] "
                "convert.outputs=[mlp_out.3]"
            )
        found.add(theirs[1] if theirs else _HOOKS[kind])
    if len(found) > 1:
        raise ModelError(
            f"circuit-tracer reads or writes one hook at every layer; these are {sorted(found)}."
        )
    return found.pop()


def listed(numbers: Sequence[int]) -> str:
    """Layers for a message; `none` where there are none."""
    return ", ".join(map(str, numbers)) or "none"
