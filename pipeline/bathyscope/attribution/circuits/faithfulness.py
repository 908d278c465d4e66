"""How much of the model's behaviour a circuit keeps, and curves over its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bathyscope.attribution.circuits.ablation import Ablated, Ablation, Errors
from bathyscope.attribution.circuits.nodes import Circuit, FeatureNodes
from bathyscope.errors import ConfigError
from bathyscope.metrics.circuits import SIZES, cmd, cpr, faithfulness


@dataclass(frozen=True)
class Curve:
    """Faithfulness over sizes; m is the mean over pairs."""

    sizes: tuple[float, ...]
    """Shares of the nodes that are active on some prompt."""
    counts: tuple[int, ...]
    """Nodes at each size."""
    faithfulness: tuple[float, ...]
    completeness: tuple[float, ...]
    """f of all other nodes: small is good."""
    full: float
    """m of the model."""
    empty: float
    """m where everything is ablated."""
    ablation: str
    errors: str

    @property
    def cpr(self) -> float:
        """The area under faithfulness."""
        return cpr(self.sizes, self.faithfulness)

    @property
    def cmd(self) -> float:
        """The area under the distance of faithfulness from 1."""
        return cmd(self.sizes, self.faithfulness)


def faithfulness_curve(
    nodes: FeatureNodes,
    *,
    ablation: Ablation = "mean",
    errors: Errors = "nodes",
    sizes: Sequence[float] = SIZES,
) -> Curve:
    """Faithfulness and completeness of the best nodes at each size, at least one node.

    Two forwards per size, of which those of equal circuits are shared. Raises ConfigError where
    ablating all changes nothing that a circuit could keep.
    """
    ablated = Ablated(nodes, ablation=ablation, errors=errors)
    full = float(nodes.contrast.clean_metric.mean())
    empty = float(ablated.metric(Circuit([keys[:0] for keys in nodes.keys])).mean())
    if math.isnan(faithfulness(full, empty, full)):
        raise ConfigError(
            f"The metric is {full:.6g} in the model and {empty:.6g} with all latents ablated by "
            f"{ablation}: there is nothing that a circuit could keep. Ablate otherwise, or take "
            "pairs whose metric the sites matter for."
        )
    counts = tuple(max(1, round(size * nodes.count)) for size in sizes)
    kept, left = {}, {}
    for count in sorted(set(counts)):
        circuit = nodes.top(count)
        kept[count] = faithfulness(float(ablated.metric(circuit).mean()), empty, full)
        others = ablated.metric(circuit.without(nodes))
        left[count] = faithfulness(float(others.mean()), empty, full)
    return Curve(
        tuple(sizes), counts, tuple(kept[n] for n in counts), tuple(left[n] for n in counts),
        full, empty, ablation, errors,
    )  # fmt: skip
