"""Circuits of latents: which of them, with their edges, make an output.

from bathyscope.attribution.circuits import faithfulness_curve, feature_edges, feature_nodes

nodes = feature_nodes(model, pairs, "logit_difference", dictionaries)
circuit = nodes.top(50)
for edge in feature_edges(nodes, circuit)[:10]:
    print(edge)
curve = faithfulness_curve(nodes, ablation="mean")
print(curve.cpr, curve.cmd)
"""

from bathyscope.attribution.circuits.ablation import Ablated
from bathyscope.attribution.circuits.edges import FeatureEdge, feature_edges
from bathyscope.attribution.circuits.faithfulness import Curve, faithfulness_curve
from bathyscope.attribution.circuits.nodes import (
    Circuit,
    FeatureNode,
    FeatureNodes,
    Site,
    feature_nodes,
)

__all__ = [
    "Ablated",
    "Circuit",
    "Curve",
    "FeatureEdge",
    "FeatureNode",
    "FeatureNodes",
    "Site",
    "faithfulness_curve",
    "feature_edges",
    "feature_nodes",
]
