"""A prompt, dictionaries for it, and the rows of its graph as one: for tests of graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bathyscope.attribution.graphs.build import GraphSettings, all_nodes
from bathyscope.attribution.graphs.forward import FrozenForward, run_frozen
from bathyscope.attribution.graphs.gradients import Rows, rows
from bathyscope.attribution.graphs.nodes import Nodes
from bathyscope.attribution.graphs.replacement import Replacement
from bathyscope.dictionaries.kinds import AnyDictionary
from graph_case import transcoders

__all__ = ["KEEP", "TOKENS", "graph_of", "transcoders"]

TOKENS = torch.tensor([5, 17, 90, 17, 33, 64, 5])
KEEP = torch.arange(len(TOKENS)) > 0


def graph_of(
    model: nn.Module, dictionaries: dict[str, AnyDictionary], keep: Tensor = KEEP
) -> tuple[FrozenForward, Replacement, Nodes, Rows]:
    """The forward, the nodes, and the rows of all targets as one."""
    replacement = Replacement(model, dictionaries)
    forward = run_frozen(model, replacement, TOKENS, keep)
    nodes = all_nodes(model, forward, replacement, GraphSettings())
    num = len(nodes.latents), len(nodes.logits.token)
    targets = torch.cat([torch.arange(num[0]), nodes.num_sources + torch.arange(num[1])])
    parts = list(rows(forward, replacement, nodes, targets, batch=16))
    order = torch.cat([part.targets for part in parts]).argsort()
    joined = Rows(
        *(
            torch.cat([getattr(p, f) for p in parts])[order]
            for f in ("targets", "values", "biases", "read")
        )
    )
    assert torch.equal(joined.targets, targets)
    return forward, replacement, nodes, joined
