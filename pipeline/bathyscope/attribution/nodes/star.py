"""AtP* (Kramár et al. 2024, "AtP*: An efficient and scalable method for localizing LLM behaviour to
components", arXiv:2403.00745).

Attribution patching misses nodes in two ways, and each has its remedy:

- Saturated attention: the softmax's slope is near 0 though a patched query or key would move it.
  Their effect on the head's output is computed (`softmax.py`), and only what follows is linear.
- Cancellation: a direct and an indirect effect of opposite sign nearly cancel. GradDrop goes back
  once per layer with that layer's gradient left out; the score is the mean of absolute values,

      c_n = 1/|D_n| Σ_{l in D_n} |AtP_n without layer l|

  over the layers D_n that do not hold the node, since without its own layer its gradient is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bathyscope.attribution.nodes.bound import DenseNodes, Nodes
from bathyscope.attribution.nodes.contrasts import Contrast, Scores, require_slope
from bathyscope.attribution.nodes.forward import Graph, graph_of
from bathyscope.attribution.nodes.metrics import wide
from bathyscope.attribution.nodes.places import Place, in_stream, place_of
from bathyscope.attribution.nodes.softmax import key_effects, query_effects, require_softmax
from bathyscope.errors import HookPointError
from bathyscope.models.attention import AttentionPart
from bathyscope.models.families import family_of
from bathyscope.models.hook_points import layer_numbers

_CORRECTED = ("queries", "keys")


def atp_star(contrast: Contrast, *, correct: bool = True, grad_drop: bool = True) -> Scores:
    """AtP* of every node: 2 forwards, and a backward for each layer.

    `correct` recomputes the softmax for queries and keys; `grad_drop` averages absolute values
    over backwards without one layer, so that scores have no sign. With neither it is AtP. Raises
    HookPointError where attention is no softmax or the layers are unknown, ConfigError for `kl`.
    """
    require_slope(contrast, "AtP*")
    name = "atp*" if correct and grad_drop else "atp" + "+qk" * correct + "+graddrop" * grad_drop
    if not contrast.nodes:
        return Scores(name, contrast, [], signed=not grad_drop)
    layers = _corrected_layers(contrast) if correct else []
    heads: list[Place] = [AttentionPart("head_out", layer) for layer in layers]
    places = list(dict.fromkeys([*contrast.places, *heads]))
    drops = _drops(contrast.model) if grad_drop else {}
    graph = graph_of(
        contrast.model, contrast.pairs.clean, places, contrast.metric,
        pairs=len(contrast.pairs), calls_of=layers, drops=drops,
    )  # fmt: skip
    for layer in layers:
        require_softmax(graph.calls[layer], layer)
    plain = _scores(contrast, graph, places, layers, None)
    if not grad_drop:
        return Scores(name, contrast, plain)
    averaged = _averaged(contrast, graph, places, layers, plain, list(drops))
    return Scores(name, contrast, averaged, signed=False)


def _averaged(
    contrast: Contrast, graph: Graph, places: list[Place], layers: list[int],
    plain: list[Tensor], drops: list[int],
) -> list[Tensor]:  # fmt: skip
    totals = [torch.zeros_like(values) for values in plain]
    counts = [0] * len(plain)
    for drop in drops:
        found = _scores(contrast, graph, places, layers, drop)
        for i, nodes in enumerate(contrast.nodes):
            own = nodes.place.layer == drop and not in_stream(contrast.model, nodes.place)
            if not own:
                totals[i] += found[i].abs()
                counts[i] += 1
    # In a model of one layer nothing can be left out.
    return [
        total / count if count else values.abs()
        for total, count, values in zip(totals, counts, plain, strict=True)
    ]


def _scores(
    contrast: Contrast, graph: Graph, places: list[Place], layers: list[int], drop: int | None
) -> list[Tensor]:
    gradients = graph.gradients(places, drop=drop)
    return [_score(contrast, graph, nodes, gradients, layers) for nodes in contrast.nodes]


def _score(
    contrast: Contrast, graph: Graph, nodes: Nodes, gradients: dict[Place, Tensor],
    layers: list[int],
) -> Tensor:  # fmt: skip
    place = nodes.place
    if not (isinstance(place, AttentionPart) and place.layer in layers and _is_corrected(nodes)):
        return nodes.dot(gradients[place])
    assert isinstance(nodes, DenseNodes)
    effects = query_effects if place.part == "queries" else key_effects
    gradient = gradients[AttentionPart("head_out", place.layer)]
    corrupted = contrast.clean.tensors[place] + nodes.change
    return nodes.collected(effects(graph.calls[place.layer], corrupted, gradient)).to(
        wide(gradient)
    )


def _is_corrected(nodes: Nodes) -> bool:
    return isinstance(nodes.place, AttentionPart) and nodes.place.part in _CORRECTED


def _corrected_layers(contrast: Contrast) -> list[int]:
    places = [nodes.place for nodes in contrast.nodes if _is_corrected(nodes)]
    return sorted({p.layer for p in places if isinstance(p, AttentionPart)})


def _drops(model: nn.Module) -> dict[int, list[Place]]:
    """Layer -> the places of what it adds to the stream."""
    family = family_of(getattr(model, "config", None))
    if family is None or family.mixer:
        raise HookPointError(
            f"GradDrop leaves out what one layer's attention and MLP add, and "
            f"{type(model).__name__} is of no family whose layers have them. Use grad_drop=False."
        )
    return {
        layer: [place_of(model, f"attn_out.{layer}"), place_of(model, f"mlp_out.{layer}")]
        for layer in layer_numbers(model)
    }
