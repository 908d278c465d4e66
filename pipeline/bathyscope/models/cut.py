"""A model without the blocks and the head that nobody needs, cut while it is still empty.

Flows in: a model on the meta device. Flows out: the same model with fewer modules. Kept blocks keep
their numbers as module names, so that hook points, checkpoint names and device maps of a cut model
are those of the whole model.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from bathyscope.errors import ModelError
from bathyscope.models.families import FAMILIES, Family, family_of


class Unloaded(nn.Module):
    """Stands where a module was left out; running it is an error."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        """Always raises ModelError."""
        raise ModelError(
            f"{self.path} was not loaded, because this model starts at a later block. "
            f"Start it with `restart(model, hidden)` from stored activations."
        )


def cut_model(model: nn.Module, layers: tuple[int, int] | None, *, head: bool) -> tuple[int, int]:
    """Keep blocks `layers[0]` to `layers[1] - 1`; without `head`, no final norm or unembedding.

    Without head the norm and the unembedding pass their input on: "logits" are the residual stream.
    A model that starts at a later block keeps its token embedding only where the head is tied to
    it. Returns the kept range. Raises ModelError for a range outside the model.
    """
    config: Any = model.config
    total = int(config.num_hidden_layers)
    first, last = (0, total) if layers is None else layers
    if not 0 <= first < last <= total:
        raise ModelError(
            f"Cannot keep layers {first} to {last - 1}: the model has layers 0 to {total - 1}. "
            f"Wanted (first, one past the last) with 0 <= first < last <= {total}."
        )
    if (first, last) == (0, total) and head:
        return first, last
    family = family_of(config)
    if family is None:
        raise ModelError(
            f"Only a whole model of type {config.model_type!r} can be loaded: it is in no "
            f"family ({', '.join(sorted(FAMILIES))}), so its blocks are unknown. "
            f"Leave out layers and keep head=True."
        )
    _cut_blocks(model, family, first, last)
    if first > 0 and not (head and _is_tied(model, family)):
        model.set_submodule(family.embedding, Unloaded(family.embedding))
    if not head:
        for path in (family.final_norm, family.unembedding):
            if path is not None:
                model.set_submodule(path, nn.Identity())
        # accelerate asks for it, and some models look inside the head that is gone.
        setattr(model, "get_output_embeddings", lambda: None)  # noqa: B010 - of this one instance
    return first, last


def _is_tied(model: nn.Module, family: Family) -> bool:
    if family.unembedding is None:
        return False
    embedding = getattr(model.get_submodule(family.embedding), "weight", None)
    unembedding = getattr(model.get_submodule(family.unembedding), "weight", None)
    return embedding is not None and embedding is unembedding


def _cut_blocks(model: nn.Module, family: Family, first: int, last: int) -> None:
    blocks = model.get_submodule(family.blocks)
    for name in [name for name, _ in blocks.named_children()]:
        if not first <= int(name) < last:
            delattr(blocks, name)
    # Models count blocks from 0 when they look up a block's kind of attention mask.
    config: Any = model.config
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and first > 0:
        config.layer_types = layer_types[first:]
