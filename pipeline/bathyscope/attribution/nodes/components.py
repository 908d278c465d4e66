"""Components that write to the residual stream and that read it, and what each writes.

Writers are the embedding, every head (or attention as a whole) and every MLP; readers are the
queries, keys and values of every head, every MLP, and the logits. What a head writes is its block
of the output projection, so writes add up to the stream: no write is counted twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bathyscope.attribution.nodes.places import Place, place_of
from bathyscope.errors import HookPointError
from bathyscope.models.attention import AttentionPart
from bathyscope.models.families import Family, family_of
from bathyscope.models.hook_points import HookPoint, layer_numbers

Kind = Literal["embedding", "head", "attention", "mlp", "queries", "keys", "values", "logits"]
_INPUTS: tuple[Literal["queries", "keys", "values"], ...] = ("queries", "keys", "values")


@dataclass(frozen=True, repr=False)
class Component:
    """A writer or a reader."""

    kind: Kind
    layer: int
    """-1 for the embedding, one past the last layer for the logits."""
    head: int = -1
    """Head, or group of heads for keys and values; -1 for neither."""

    def __str__(self) -> str:
        """Such as `head.3.1`, `mlp.3` or `logits`."""
        if self.kind in ("embedding", "logits"):
            return self.kind
        return f"{self.kind}.{self.layer}" + (f".{self.head}" if self.head >= 0 else "")

    __repr__ = __str__


class Components:
    """Those of a model of a known family, in the order in which they run.

    `heads=False` takes attention as one writer and one reader. Raises HookPointError for a family
    whose parts are not known, and for heads where they are not added to the stream one by one.
    """

    def __init__(self, model: nn.Module, *, heads: bool = True) -> None:
        self.model, self.heads = model, heads
        config: Any = model.config
        self.family = _family(model, heads=heads)
        self.layers = layer_numbers(model)
        self.parallel = self.family.is_parallel(config)
        self.num_heads = int(config.num_attention_heads)
        self.num_groups = int(getattr(config, "num_key_value_heads", None) or self.num_heads)
        self.writers = [Component("embedding", -1), *self._writers()]
        self.readers = [*self._readers(), Component("logits", self.layers[-1] + 1)]

    def exists(self, writer: Component, reader: Component) -> bool:
        """Whether the reader's input holds what the writer wrote."""
        same_block = writer.layer == reader.layer
        writes_before_mlp = writer.kind in ("head", "attention") and not self.parallel
        return writer.layer < reader.layer or (
            same_block and reader.kind == "mlp" and writes_before_mlp
        )

    def stream(self, reader: Component) -> HookPoint:
        """Where the stream is read. It is `resid_mid` for the MLP of a sequential block."""
        if reader.kind == "logits":
            name = f"resid_post.{self.layers[-1]}"
        elif reader.kind == "mlp" and not self.parallel:
            name = f"resid_mid.{reader.layer}"
        else:
            name = f"resid_pre.{reader.layer}"
        point = place_of(self.model, name)
        assert isinstance(point, HookPoint)
        return point

    def inputs(self, reader: Component) -> tuple[Place, ...]:
        """The tensors in which a reader's input ends; none for the logits."""
        if reader.kind == "mlp":
            return (place_of(self.model, f"mlp_in.{reader.layer}"),)
        return tuple(
            AttentionPart(part, reader.layer)
            for part in _INPUTS
            if reader.kind in (part, "attention")
        )

    def written(self, layer: int) -> tuple[Place, Place]:
        """Places from which writes of attention and MLP of a layer are known."""
        name = f"heads.{layer}" if self.heads else f"attn_out.{layer}"
        if self.family.mlp_write is None:
            return place_of(self.model, name), place_of(self.model, f"mlp_out.{layer}")
        path = f"{self.family.blocks}.{layer}.{self.family.mlp_write}"
        return place_of(self.model, name), HookPoint(path, path, "out", layer)

    @property
    def start(self) -> HookPoint:
        """The stream before the first layer: what the embedding writes."""
        point = place_of(self.model, f"resid_pre.{self.layers[0]}")
        assert isinstance(point, HookPoint)
        return point

    def write_places(self) -> list[Place]:
        """All places that writes are made from."""
        return [self.start, *(p for layer in self.layers for p in self.written(layer))]

    def writes(
        self, changes: Mapping[Place, Tensor], before: Component, *, at_a_time: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """What each writer before a reader writes, some at a time: [writers, pairs, positions, d].

        `changes` are those of the tensors at `write_places`. With each block comes the slice of
        `self.writers` that it stands for.
        """
        for first, stop, layer in self._runs(before):
            kind = self.writers[first].kind
            if kind == "embedding":
                yield slice(first, stop), changes[self.start][None]
            elif kind == "head":
                change = changes[self.written(layer)[0]]
                for start in range(0, stop - first, at_a_time):
                    part = range(start, min(start + at_a_time, stop - first))
                    block = self._head_writes(change, layer, part)
                    yield slice(first + part.start, first + part.stop), block
            else:
                yield slice(first, stop), changes[self.written(layer)[kind == "mlp"]][None]

    def write_of(self, changes: Mapping[Place, Tensor], writer: Component) -> Tensor:
        """What one writer writes, [pairs, positions, d]."""
        if writer.kind == "embedding":
            return changes[self.start]
        attention, mlp = self.written(writer.layer)
        if writer.kind == "head":
            heads = range(writer.head, writer.head + 1)
            return self._head_writes(changes[attention], writer.layer, heads)[0]
        return changes[mlp if writer.kind == "mlp" else attention]

    def _runs(self, before: Component) -> Iterator[tuple[int, int, int]]:
        """Neighbouring writers of one layer and kind that a reader reads: first, stop, layer."""
        first = 0
        while first < len(self.writers):
            writer, stop = self.writers[first], first + 1
            while stop < len(self.writers) and _alike(writer, self.writers[stop]):
                stop += 1
            if self.exists(writer, before):
                yield first, stop, writer.layer
            first = stop

    def _head_writes(self, change: Tensor, layer: int, heads: range) -> Tensor:
        path = f"{self.family.blocks}.{layer}.{self.family.heads}"
        weight = _weight(self.model.get_submodule(path), path).to(change.dtype)
        by_head = weight.view(self.num_heads, -1, weight.shape[1])[heads.start : heads.stop]
        blocks = change.view(*change.shape[:2], self.num_heads, -1)
        return torch.einsum("bthk,hkd->hbtd", blocks[:, :, heads.start : heads.stop], by_head)

    def _writers(self) -> Iterator[Component]:
        for layer in self.layers:
            if self.heads:
                yield from (Component("head", layer, head) for head in range(self.num_heads))
            else:
                yield Component("attention", layer)
            yield Component("mlp", layer)

    def _readers(self) -> Iterator[Component]:
        sizes = (self.num_heads, self.num_groups, self.num_groups)
        inputs = [(part, n) for part, size in zip(_INPUTS, sizes, strict=True) for n in range(size)]
        for layer in self.layers:
            if self.heads:
                yield from (Component(part, layer, head) for part, head in inputs)
            else:
                yield Component("attention", layer)
            yield Component("mlp", layer)


def _alike(a: Component, b: Component) -> bool:
    return a.kind == b.kind == "head" and a.layer == b.layer


def _weight(module: nn.Module, path: str) -> Tensor:
    """The weight of a linear map, [d_in, d_out]."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear) and isinstance(weight, Tensor):
        return weight.detach().T
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor):
        return weight.detach()
    raise HookPointError(
        f"{path} is a {type(module).__name__}, not a plain linear map, so what single heads write "
        "is not known. Use heads=False."
    )


def _family(model: nn.Module, *, heads: bool) -> Family:
    family = family_of(getattr(model, "config", None))
    if family is None or family.mixer or family.reads_images:
        raise HookPointError(
            f"Edges need a decoder of the table of families, whose writes to the stream are known; "
            f"{type(model).__name__} is none. Use nodes instead."
        )
    added_one_by_one = (family.heads or "").startswith(f"{family.attention_out}.")
    if heads and not added_one_by_one:
        raise HookPointError(
            f"In {type(model).__name__} a norm stands between the heads and the stream, so heads "
            "do not write to it one by one. Use heads=False, which takes attention as a whole."
        )
    return family
