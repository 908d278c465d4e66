"""The directions that a model's weights hold: rows to its logits, what its MLPs read and write.

Superposition of a set of directions is a matter of how many there are, how long, and how they lie.
Of rows to logits the mean is taken away, as softmax does not see what all logits share; where rows
are weighted by how often a token occurs, it is the mean of the same weights. What is left is also
measured with every column shuffled by itself: that keeps what each dimension holds and takes away
how rows are arranged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bathyscope.models.families import family_of
from bathyscope.models.head import read_head
from bathyscope.models.hook_points import HookPoint
from bathyscope.models.load import LoadedModel
from bathyscope.studies.directions import QUANTILES, feature_dimensions, measure_directions
from bathyscope.studies.prunable import PrunableWeight, prunable
from bathyscope.values import Json

PAIR_ROWS = 1024
"""Rows that are compared with all others, for mean |cos| and row maxima."""


class Matrix(NamedTuple):
    """Directions of one kind."""

    kind: str
    W: Tensor
    """Rows [n, d]."""
    weights: Tensor | None = None
    """How often each row is used [n], in any scale."""


def matrices_of(
    loaded: LoadedModel, hook: HookPoint, frequencies: Tensor | None, seed: int
) -> Iterator[Matrix]:
    """The directions of a model: to its logits, and in and out of the MLP at the hook's layer.

    `frequencies` [vocabulary] is how often each token occurs. A model of no family gives its last
    linear map, and what the module at the hook point writes. What a model lacks is left out.
    """
    rows = _to_logits(loaded)
    if rows is not None:
        centred = rows - rows.mean(dim=0)
        yield Matrix("unembedding", rows)
        yield Matrix("unembedding_centred", centred)
        yield Matrix("unembedding_shuffled", shuffled(centred, seed))
        if frequencies is not None:
            counts = _fitted(frequencies, len(rows)).to(rows)
            mean = counts @ rows / counts.sum()
            yield Matrix("unembedding_frequency", rows - mean, counts)
    if loaded.config is None:
        yield from _of_module(loaded.model, hook.path)
    elif hook.layer is not None:
        yield from _of_mlp(loaded.model, hook.layer)


def figures_of(matrix: Matrix, seed: int) -> Json:
    """The row of a table that a set of directions gives; the names are those of `Directions`.

    Raises `NonFiniteError` for NaN or infinity, `ValueError` where all rows are zero.
    """
    W = matrix.W.float()
    found = measure_directions(W, weights=matrix.weights, sample_rows=PAIR_ROWS, seed=seed)
    row = found.to_dict()
    quantiles = row.pop("dimensionality_quantiles")
    row |= {f"dimensionality_q{100 * q:02.0f}": quantiles[str(q)] for q in QUANTILES}
    used = W if matrix.weights is None else W[matrix.weights > 0]
    own = feature_dimensions(used).dimensionality
    row["shared_rows"] = float((own[own.isfinite()] < 0.5).double().mean())
    row["welch_times_width"] = found.welch_bound**2 * found.width
    row["dimensionality_bound"] = min(1.0, found.width / found.num_rows)
    return {"kind": matrix.kind, "d": found.width, **row}


def shuffled(W: Tensor, seed: int) -> Tensor:
    """Each column of W [n, d] in an order of its own."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.rand(W.shape, generator=draw).argsort(dim=0)
    return W.gather(0, order.to(W.device))


def _to_logits(loaded: LoadedModel) -> Tensor | None:
    """Rows of the map to logits [classes or tokens, d]."""
    if loaded.config is not None:
        head = read_head(loaded.folder)
        return None if head is None else head.unembedding
    linear = [module for module in loaded.model.modules() if isinstance(module, nn.Linear)]
    return linear[-1].weight.detach().float() if linear else None


def _fitted(frequencies: Tensor, count: int) -> Tensor:
    """As many as there are rows: a vocabulary may have rows of tokens that never occur."""
    return torch.nn.functional.pad(frequencies, (0, max(count - len(frequencies), 0)))[:count]


def _of_mlp(model: nn.Module, layer: int) -> Iterator[Matrix]:
    """Rows that the MLP of a block reads by, and columns by which it writes; no gain of a norm."""
    family = family_of(getattr(model, "config", None))
    if family is None or family.mixer:
        return
    parts = [family.mlp, family.mlp_out or family.mlp]
    inside = tuple(f"{family.blocks}.{layer}.{part}." for part in parts)
    weights = [w for w in prunable(model).weights if f"{w.path}.".startswith(inside)]
    width = model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    # Joined experts are no weights of this kind, and a router writes nothing.
    if len(weights) < 2 or weights[-1].shape[0] != width:
        return
    reads = [w.read() for w in weights[:-1] if w.shape[1] == width]
    if reads:
        yield Matrix("mlp_in", torch.cat(reads))
    yield Matrix("mlp_out", weights[-1].read().t())


def _of_module(model: nn.Module, path: str) -> Iterator[Matrix]:
    """Columns by which the last map in a module writes; of a convolution one per patch entry."""
    inside = [w for w in prunable(model).weights if f"{w.path}.".startswith(f"{path}.")]
    if inside and _writes_all(inside[-1]):
        yield Matrix("layer_out", inside[-1].read().t())


def _writes_all(weight: PrunableWeight) -> bool:
    """Whether every input reaches every output: a grouped one writes to its own channels only."""
    return weight.groups == 1
