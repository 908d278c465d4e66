"""The truth: every operation in its plainest dense form, to compare the fast ones with.

Flow: the same arguments as the operation of the same name go in, the same result comes out, made
from the whole [rows, columns] matrix and stable sorts. Memory and speed do not matter here. All
compute in float64 if all inputs are float64, or if asked by `upcast`, else in float32; values are
returned in that dtype. Order everywhere: larger value, then smaller index; NaN above +inf.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.edges import Edges
from bathyscope_kernels.encode import Encoded
from bathyscope_kernels.ragged import Ragged
from bathyscope_kernels.threshold import Thresholded
from bathyscope_kernels.workspace import accumulate_dtype


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


def threshold_gradients(
    pre: Tensor, threshold: Tensor, bandwidth: float, grad_values: Tensor, grad_l0: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of pre [rows, latents] and threshold [latents] by the formulas of JumpReLU.

    grad_values [rows, latents] is that of pre * (pre > theta), grad_l0 [rows] that of the count
    of active latents; rect(u) = 1 for |u| < 1/2, else 0:

        d pre   = grad_values * (pre > theta)
        d theta = -sum over rows (theta * grad_values + grad_l0) / eps * rect((pre - theta) / eps)
    """
    rect = ((pre > threshold - bandwidth / 2) & (pre < threshold + bandwidth / 2)).to(pre.dtype)
    grad_theta = -(threshold * grad_values + grad_l0[:, None]) * rect / bandwidth
    return grad_values * (pre > threshold), grad_theta.sum(0)


def topk_edges(
    targets: Tensor, sources: Tensor, k: int, *, magnitude: bool = True, upcast: bool = False
) -> Edges:
    """The k entries of targets sources^T per target by |value| (no zeros), or by value."""
    targets, sources = _computed_in(upcast, targets, sources)
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
    targets, sources = _computed_in(upcast, targets, sources)
    products = targets @ sources.T
    strength = products.abs() if magnitude else products
    return _ragged(products, ~(strength <= threshold))


def sparse_decode(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None = None,
    *,
    upcast: bool = False,
) -> Tensor:
    """x_hat = S W_dec + b_dec, where S [rows, latents] holds the values at their indices."""
    values, W_dec = _computed_in(upcast, values, W_dec)
    x_hat = _scattered(values, indices, W_dec.shape[0]) @ W_dec
    return x_hat if b_dec is None else x_hat + b_dec.to(x_hat.dtype)


def decode_residual(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None,
    target: Tensor,
    *,
    upcast: bool = False,
) -> tuple[Tensor, Tensor]:
    """The residual target - x_hat [rows, d_out], and the sum of its squares per row [rows]."""
    x_hat = sparse_decode(values, indices, W_dec, b_dec, upcast=upcast)
    residual = target.to(x_hat.dtype) - x_hat
    return residual, residual.square().sum(1)


class Gradients(NamedTuple):
    """What `sparse_backward` returns, each with the shape of what it is the gradient of."""

    values: Tensor
    W_dec: Tensor
    W_enc: Tensor
    b_enc: Tensor
    x: Tensor


def sparse_backward(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    x: Tensor,
    W_enc: Tensor,
    W_dec: Tensor,
    *,
    upcast: bool = False,
) -> Gradients:
    """Carry grad [rows, d_out], that of x_hat = S W_dec, back through decode and encode.

    d values = (grad W_dec^T) at the indices        d W_dec = S^T grad
    D holds d values where values > 0 (the ReLU)    d W_enc = D^T x
    d b_enc = sum over rows of D                    d x = D W_enc
    """
    grad, values, x, W_enc, W_dec = _computed_in(upcast, grad, values, x, W_enc, W_dec)
    grad_values = (grad @ W_dec.T).gather(1, indices.to(torch.int64))
    S = _scattered(values, indices, W_dec.shape[0])
    D = _scattered(grad_values.masked_fill(values <= 0, 0), indices, W_enc.shape[0])
    return Gradients(grad_values, S.T @ grad, D.T @ x, D.sum(0), D @ W_enc)


def sampled_dot(
    gradients: Tensor,
    W_dec: Tensor,
    positions: Tensor,
    latents: Tensor,
    activations: Tensor | None = None,
    *,
    upcast: bool = False,
) -> Tensor:
    """activations[i] * gradients[b, positions[i]] . W_dec[latents[i]], [batch, n]."""
    gradients, W_dec = _computed_in(upcast, gradients, W_dec)
    everywhere = gradients @ W_dec.T
    scores = everywhere[:, positions.to(torch.int64), latents.to(torch.int64)]
    return scores if activations is None else scores * activations.to(scores.dtype)


def adam(
    parameter: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    upcast: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of Adam (Kingma & Ba 2015, arXiv:1412.6980); `step` counts from 1.

        mean <- b1 mean + (1 - b1) grad        square <- b2 square + (1 - b2) grad^2
        parameter <- parameter - lr * (mean / (1 - b1^step)) / (sqrt(square / (1 - b2^step)) + eps)

    Returns the new parameter, mean and square; the arguments stay as they are.
    """
    parameter, grad, mean, square = _computed_in(upcast, parameter, grad, mean, square)
    mean = betas[0] * mean + (1 - betas[0]) * grad
    square = betas[1] * square + (1 - betas[1]) * grad * grad
    unbiased = mean / (1 - betas[0] ** step)
    scale = (square / (1 - betas[1] ** step)).sqrt() + eps
    return parameter - lr * unbiased / scale, mean, square


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


def _computed_in(upcast: bool, *tensors: Tensor) -> list[Tensor]:
    named = {f"argument {place}": tensor for place, tensor in enumerate(tensors)}
    dtype = torch.float64 if upcast else accumulate_dtype(**named)
    return [tensor.to(dtype) for tensor in tensors]


def _pre_activations(x: Tensor, W_enc: Tensor, b_enc: Tensor, upcast: bool) -> Tensor:
    x, W_enc, b_enc = _computed_in(upcast, x, W_enc, b_enc)
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


def _scattered(coefficients: Tensor, indices: Tensor, num_latents: int) -> Tensor:
    dense = coefficients.new_zeros(coefficients.shape[0], num_latents)
    return dense.scatter_add(1, indices.to(torch.int64), coefficients)


def _ragged(scores: Tensor, kept: Tensor) -> Ragged:
    rows, columns = kept.nonzero(as_tuple=True)
    offsets = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
    return Ragged(scores[rows, columns], columns.to(torch.int32), offsets)
