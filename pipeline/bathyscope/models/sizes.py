"""How many parameters a model has, and how many of them are tables that are looked up."""

from __future__ import annotations

from torch import nn


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those of embeddings; tied ones once. The model may be without data."""
    # By identity: tied parameters are one object, on the meta device too.
    everything = {id(p): p.numel() for p in model.parameters()}
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    looked_up = {id(m.weight): m.weight.numel() for m in tables}
    return sum(everything.values()), sum(looked_up.values())
