"""Hook points: which tensor of a model is meant by a name.

A name is an alias (`resid_post.3`, see `families.py`) or a module path with an optional side
(`model.layers.3.mlp`, `model.layers.3.mlp:in`). Flows in: a name and a model, or its config when
the model is not loaded yet. Flows out: a `HookPoint`, or an error that lists near matches.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from bathyscope.errors import HookPointError
from bathyscope.models.families import ALIAS_KINDS, FAMILIES, Family, family_of

Side = Literal["in", "out"]


@dataclass(frozen=True)
class HookPoint:
    """A module and the side of it where the tensor is."""

    name: str
    """As it was asked for: an alias or a path."""
    path: str
    """Module path inside the model."""
    side: Side
    """`in` is the module's first tensor argument, `out` what it returns."""
    layer: int | None
    """Block that holds the module; none where that is unknown."""

    @property
    def reads_residual_aside(self) -> bool:
        """Whether the module only reads a copy of the stream, so that replacing loses its sense."""
        return self.name.startswith("resid_mid.")


def resolve(model_or_config: Any, name: str) -> HookPoint:
    """The hook point of that name in a model, or in the model that a config describes.

    With a config alone, module paths are taken on trust: `capture` finds a wrong one later.
    Raises HookPointError for a name that matches nothing, a layer that is not there, a side other
    than `in` and `out`, and an alias that the family's blocks do not have, with the reason.
    """
    model = model_or_config if isinstance(model_or_config, nn.Module) else None
    config = getattr(model, "config", None) if model is not None else model_or_config
    family = family_of(config)
    kind, _, layer = name.partition(".")
    if kind in ALIAS_KINDS and layer.isdecimal():
        return _resolve_alias(name, kind, int(layer), model, config, family)
    return _resolve_path(name, model, config, family)


def layers_needed(points: Iterable[HookPoint]) -> tuple[int, int] | None:
    """Blocks (first, one past the last) that a forward needs to reach all points.

    None where a point lies in no block: then the whole model is needed.
    """
    layers = [point.layer for point in points]
    known = [layer for layer in layers if layer is not None]
    if len(known) != len(layers) or not known:
        return None
    return 0, max(known) + 1


def layer_numbers(model: nn.Module) -> list[int]:
    """Original numbers of the blocks that the model holds; empty for a model of no family."""
    family = family_of(getattr(model, "config", None))
    if family is None:
        return []
    return [int(key) for key, _ in model.get_submodule(family.blocks).named_children()]


def _resolve_alias(
    name: str,
    kind: str,
    layer: int,
    model: nn.Module | None,
    config: Any,
    family: Family | None,
) -> HookPoint:
    if family is None:
        raise HookPointError(
            f"The alias {name!r} needs a model family, and model_type "
            f"{getattr(config, 'model_type', None)!r} is none of {', '.join(sorted(FAMILIES))}. "
            f"Give a module path with an optional side instead, such as 'encoder.3.mlp:in'."
        )
    total = int(config.num_hidden_layers)
    held = layer_numbers(model) if model is not None else list(range(total))
    if layer not in held:
        which = f"layers {held[0]} to {held[-1]}" if held else "no layer"
        raise HookPointError(
            f"{name!r} asks for layer {layer}, but the model has {total} layers and "
            f"{which} can be used here (counted from 0)."
        )
    reason = family.why_not(kind, layer, config)
    if reason is not None:
        raise HookPointError(f"{name!r} does not exist in {config.model_type}: {reason}.")
    path, side = family.part(kind, layer)
    return HookPoint(name, path, "in" if side == "in" else "out", layer)


def _resolve_path(
    name: str, model: nn.Module | None, config: Any, family: Family | None
) -> HookPoint:
    path, colon, side = name.partition(":")
    if colon and side not in ("in", "out"):
        raise HookPointError(
            f"{name!r} names the side {side!r}; a side is 'in' or 'out', as in '{path}:in'."
        )
    paths = {path for path, _ in model.named_modules()} if model is not None else set()
    known = path in paths if model is not None else _could_be_path(path, family)
    if not path or not known:
        raise HookPointError(_no_match(name, model, config, family, paths))
    return HookPoint(name, path, "in" if side == "in" else "out", _layer_of(path, family))


def _could_be_path(path: str, family: Family | None) -> bool:
    root = path.split(".")[0]
    if family is None:
        return root not in ALIAS_KINDS
    known = (family.blocks, family.embedding, family.final_norm, family.unembedding)
    return root in {path.split(".")[0] for path in known if path is not None}


def _layer_of(path: str, family: Family | None) -> int | None:
    if family is None or not path.startswith(family.blocks + "."):
        return None
    number = path.removeprefix(family.blocks + ".").split(".")[0]
    return int(number) if number.isdecimal() else None


def _aliases(model: nn.Module | None, config: Any, family: Family | None) -> Iterator[str]:
    if family is None:
        return
    layers = layer_numbers(model) if model is not None else range(int(config.num_hidden_layers))
    for kind in ALIAS_KINDS:
        yield from (
            f"{kind}.{layer}" for layer in layers if family.why_not(kind, layer, config) is None
        )


def _no_match(
    name: str, model: nn.Module | None, config: Any, family: Family | None, paths: set[str]
) -> str:
    aliases = list(_aliases(model, config, family))
    candidates = aliases + sorted(paths - {""})
    near = difflib.get_close_matches(name.partition(":")[0], candidates, n=5, cutoff=0.5)
    wanted = "a module path with an optional ':in' or ':out'"
    if aliases:
        wanted = f"an alias from {aliases[0]!r} to {aliases[-1]!r}, or {wanted}"
    close = f" Near matches: {', '.join(near)}." if near else ""
    return f"No hook point {name!r} in this model. Wanted {wanted}.{close}"
