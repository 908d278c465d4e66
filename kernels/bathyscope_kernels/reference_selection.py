"""The plainest form of all that selects: encoders, edges, top examples. See `reference`.

Flow: the whole [rows, columns] matrix of scores is made, sorted stably and cut.
"""

import torch
from torch import Tensor

from bathyscope_kernels.edges import Edges
from bathyscope_kernels.encode import Encoded
from bathyscope_kernels.ragged import Ragged
from bathyscope_kernels.reference_products import computed_in
from bathyscope_kernels.threshold import Thresholded


def topk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, *, upcast: bool = False
) -> Encoded:
    """The k largest of relu(x W_enc^T + b_enc) per row; 0 at index 0 past the positive ones."""
    return _first_k(_pre_activations(x, W_enc, b_enc, upcast), k)


def auxk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, subset: Tensor, *, upcast: bool = False
) -> Encoded:
    """The same among the latents of `subset`; indices are positions in it, k capped by its size."""
    return topk_encode(x, W_enc[subset], b_enc[subset], min(k, subset.numel()), upcast=upcast)


def batch_topk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, group_rows: int, *, upcast: bool = False
) -> Ragged:
    """The k * rows largest of relu(x W_enc^T + b_enc) of each run of `group_rows` rows.

    Flattened, a stable sort prefers the smaller row, then the smaller latent.
    """
    pre = _pre_activations(x, W_enc, b_enc, upcast)
    kept = torch.zeros_like(pre, dtype=torch.bool)
    for rows in torch.arange(x.shape[0]).split(group_rows):
        flat = pre[rows].flatten()
        best = torch.sort(flat, descending=True, stable=True).indices[: k * len(rows)]
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        chosen[best] = True
        kept[rows] = (chosen & ~(flat <= 0)).view_as(pre[rows])
    return _ragged(pre, kept)


def threshold_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: Tensor,
    *,
    bandwidth: float = 0.0,
    upcast: bool = False,
) -> Thresholded:
    """pre * (pre > theta) at all places with pre > theta - eps / 2, for pre = x W_enc^T + b_enc."""
    pre = _pre_activations(x, W_enc, b_enc, upcast)
    theta = threshold.to(pre.dtype)
    active = ~(pre <= theta)
    kept = ~(pre <= theta - bandwidth / 2)
    ragged = _ragged(pre.masked_fill(~active, 0), kept)
    return Thresholded(*ragged, active[kept])


def topk_edges(
    targets: Tensor, sources: Tensor, k: int, *, magnitude: bool = True, upcast: bool = False
) -> Edges:
    """The k entries of targets sources^T per target by |value| (no zeros), or by value."""
    targets, sources = computed_in(upcast, targets, sources)
    products = targets @ sources.T
    if not magnitude:
        values, indices = torch.sort(products, dim=1, descending=True, stable=True)
        count = torch.full((targets.shape[0],), k, dtype=torch.int32)
        return Edges(values[:, :k], indices[:, :k].to(torch.int32), count)
    _, indices, count = _first_k(products.abs(), k)
    values = products.gather(1, indices.to(torch.int64))
    return Edges(values.masked_fill(_past(count, k), 0), indices, count)


def threshold_edges(
    targets: Tensor,
    sources: Tensor,
    threshold: float,
    *,
    magnitude: bool = True,
    upcast: bool = False,
) -> Ragged:
    """All entries of targets sources^T with |value| > threshold, or value > threshold."""
    targets, sources = computed_in(upcast, targets, sources)
    products = targets @ sources.T
    strength = products.abs() if magnitude else products
    return _ragged(products, ~(strength <= threshold))


def top_examples(
    num_latents: int, m: int, values: Tensor, indices: Tensor, row_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """The m best rows of each latent over a whole stream: values and rows [num_latents, m].

    values and indices [rows, k] are those of an encode, row_ids [rows]. By value, descending, then
    smaller row id; only values above zero and NaN; equal triples count once; 0 and -1 where empty.
    """
    best_values = values.new_zeros(num_latents, m)
    best_rows = torch.full((num_latents, m), -1)
    rows = row_ids[:, None].expand(values.shape)
    for latent in range(num_latents):
        here = (indices == latent) & ~(values <= 0)
        # NaN is not equal to itself; as +inf with a mark it is found again.
        triples = {
            (v != v, v if v == v else 0.0, -r)
            for v, r in zip(values[here].tolist(), rows[here].tolist(), strict=True)
        }
        for slot, (is_nan, value, row) in enumerate(sorted(triples, reverse=True)[:m]):
            best_values[latent, slot] = torch.nan if is_nan else value
            best_rows[latent, slot] = -row
    return best_values, best_rows


def _pre_activations(x: Tensor, W_enc: Tensor, b_enc: Tensor, upcast: bool) -> Tensor:
    x, W_enc, b_enc = computed_in(upcast, x, W_enc, b_enc)
    return x @ W_enc.T + b_enc


def _first_k(scores: Tensor, k: int) -> Encoded:
    values, indices = torch.sort(scores, dim=1, descending=True, stable=True)
    count = (~(values[:, :k] <= 0)).sum(1)
    past = _past(count, k)
    return Encoded(
        values[:, :k].masked_fill(past, 0),
        indices[:, :k].masked_fill(past, 0).to(torch.int32),
        count.to(torch.int32),
    )


def _past(count: Tensor, k: int) -> Tensor:
    return torch.arange(k, device=count.device) >= count[:, None]


def _ragged(scores: Tensor, kept: Tensor) -> Ragged:
    rows, columns = kept.nonzero(as_tuple=True)
    offsets = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
    return Ragged(scores[rows, columns], columns.to(torch.int32), offsets)
