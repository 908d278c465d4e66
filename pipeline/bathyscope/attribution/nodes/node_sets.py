"""Node sets: which parts of a model are nodes, said by name before anything runs.

A set names the places that it needs; from the tensors there on the clean and the corrupted prompts
it makes nodes (`bound.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from bathyscope.attribution.nodes.bound import DenseNodes, Nodes
from bathyscope.attribution.nodes.pairs import Pairs
from bathyscope.attribution.nodes.places import Place, place_of
from bathyscope.errors import HookPointError
from bathyscope.models.attention import Part
from bathyscope.models.hook_points import HookPoint, layer_numbers

Tensors = Mapping[Place, Tensor]


class NodeSet(Protocol):
    """Nodes that are made from the tensors at some places."""

    def places(self, model: nn.Module) -> tuple[Place, ...]:
        """The places whose tensors are needed. Raises HookPointError where there is none."""
        ...

    def bind(
        self, model: nn.Module, clean: Tensors, corrupted: Tensors, pairs: Pairs
    ) -> list[Nodes]:
        """The nodes of these pairs."""
        ...


@dataclass(frozen=True)
class _Dense(ABC):
    """One place whose change is cut into blocks."""

    kind: str

    @abstractmethod
    def name(self) -> str:
        """The place."""

    def heads(self, model: nn.Module) -> int | None:
        """Blocks of the last dimension."""
        return None

    @property
    def each(self) -> bool:
        """Whether every position is a node of its own."""
        return True

    def places(self, model: nn.Module) -> tuple[Place, ...]:
        """The one place."""
        place = place_of(model, self.name())
        if isinstance(place, HookPoint) and place.reads_residual_aside:
            raise HookPointError(
                f"{place.name} can be read but not patched: the stream passes beside the norm that "
                f"is hooked. Use attn_out.{place.layer} or resid_post.{place.layer}."
            )
        return (place,)

    def bind(
        self, model: nn.Module, clean: Tensors, corrupted: Tensors, pairs: Pairs
    ) -> list[Nodes]:
        """The blocks."""
        (place,) = self.places(model)
        change = corrupted[place] - clean[place]
        if change.shape[:2] != pairs.keep.shape:
            raise HookPointError(
                f"{place.name} holds {list(change.shape)}; nodes need [pairs, positions, …] with "
                f"{list(pairs.keep.shape)} in front."
            )
        return [
            DenseNodes(
                place, self.kind, change, pairs.keep, heads=self.heads(model),
                each_position=self.each,
            )
        ]  # fmt: skip


@dataclass(frozen=True)
class Positions(_Dense):
    """Every position of the tensor at a place: of the stream, of what a module returns."""

    place: str = ""
    kind: str = "position"

    def name(self) -> str:
        """The place."""
        return self.place


@dataclass(frozen=True)
class Module(Positions):
    """The whole tensor at a place, all positions together: an MLP, an attention output."""

    kind: str = "module"

    @property
    def each(self) -> bool:
        """No."""
        return False


@dataclass(frozen=True)
class Heads(_Dense):
    """The attention heads of a layer: blocks of what the output projection receives."""

    layer: int = 0
    each_position: bool = False
    kind: str = "head"

    def name(self) -> str:
        """The place."""
        return f"heads.{self.layer}"

    def heads(self, model: nn.Module) -> int | None:
        """Query heads."""
        return int(model.config.num_attention_heads)  # type: ignore[union-attr,arg-type]

    @property
    def each(self) -> bool:
        """As it was asked for."""
        return self.each_position


@dataclass(frozen=True)
class _InAttention(_Dense):
    """What meets in the softmax of a layer, one node per head and position."""

    layer: int = 0
    part: ClassVar[Part]

    def name(self) -> str:
        """The place."""
        return f"{self.part}.{self.layer}"


@dataclass(frozen=True)
class Queries(_InAttention):
    """The query of every head at every position, after bias, norm and rotation."""

    kind: str = "query"
    part: ClassVar[Part] = "queries"


@dataclass(frozen=True)
class Keys(_InAttention):
    """The keys. With grouped queries a node is a key head, which moves all of its query heads."""

    kind: str = "key"
    part: ClassVar[Part] = "keys"


@dataclass(frozen=True)
class Values(_InAttention):
    """The values, one node per key head and position."""

    kind: str = "value"
    part: ClassVar[Part] = "values"


def every_layer(model: nn.Module, *kinds: str) -> list[NodeSet]:
    """Node sets of these kinds in all layers: heads, queries, keys, values, mlps, attentions.

    Raises HookPointError for a model of no family, and for another kind.
    """
    make = {
        "heads": lambda layer: Heads(layer=layer),
        "queries": lambda layer: Queries(layer=layer),
        "keys": lambda layer: Keys(layer=layer),
        "values": lambda layer: Values(layer=layer),
        "mlps": lambda layer: Module(place=f"mlp_out.{layer}", kind="mlp"),
        "attentions": lambda layer: Module(place=f"attn_out.{layer}", kind="attention"),
    }
    wrong = [kind for kind in kinds if kind not in make]
    layers = layer_numbers(model)
    if wrong or not layers:
        raise HookPointError(
            f"{wrong[0]!r} is no kind of node: choose of {', '.join(make)}."
            if wrong
            else f"{type(model).__name__} is of no family in the table: name places one by one."
        )
    return [make[kind](layer) for layer in layers for kind in kinds]
