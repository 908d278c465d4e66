"""How much single nodes, and edges between them, change a metric of the output.

    from bathyscope.attribution.nodes import Pairs, contrast, every_layer, atp_star, exact_patching

    pairs = Pairs.of_texts(
        loaded.tokenizer,
        ["The capital of France is"], ["The capital of Italy is"],
        answers=[" Paris"], wrong=[" Rome"],
    )
    problem = contrast(loaded.model, pairs, "logit_difference", every_layer(loaded.model, "heads"))
    for node in atp_star(problem).top(10):
        print(node)
    truth = exact_patching(problem)

Node sets: `Positions`, `Module`, `Heads`, `Queries`, `Keys`, `Values`, `Latents`. Methods:
`exact_patching`, `attribution_patching`, `atp_star`, `integrated_gradients`; over edges
`edge_attribution` and
`exact_edges`. `missed_nodes` and `subset_bound` say what a method can have missed.
"""

from bathyscope.attribution.nodes.contrasts import Contrast, Node, Scores, contrast
from bathyscope.attribution.nodes.edge_patching import exact_edges
from bathyscope.attribution.nodes.edges import Edge, EdgeScores, edge_attribution
from bathyscope.attribution.nodes.exact import exact_patching
from bathyscope.attribution.nodes.latents import Latents
from bathyscope.attribution.nodes.linear import (
    attribution_patching,
    completeness_gap,
    integrated_gradients,
)
from bathyscope.attribution.nodes.missed import missed_nodes, subset_bound
from bathyscope.attribution.nodes.node_sets import (
    Heads,
    Keys,
    Module,
    Positions,
    Queries,
    Values,
    every_layer,
)
from bathyscope.attribution.nodes.pairs import Pairs
from bathyscope.attribution.nodes.star import atp_star

__all__ = [
    "Contrast",
    "Edge",
    "EdgeScores",
    "Heads",
    "Keys",
    "Latents",
    "Module",
    "Node",
    "Pairs",
    "Positions",
    "Queries",
    "Scores",
    "Values",
    "atp_star",
    "attribution_patching",
    "completeness_gap",
    "contrast",
    "edge_attribution",
    "every_layer",
    "exact_edges",
    "exact_patching",
    "integrated_gradients",
    "missed_nodes",
    "subset_bound",
]
