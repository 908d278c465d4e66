"""The plainest form of products, their gradients and the optimizer's step. See `reference`.

Flow: a sparse matrix is written out as a dense one and multiplied.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.workspace import accumulate_dtype


def sparse_decode(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None = None,
    *,
    upcast: bool = False,
) -> Tensor:
    """x_hat = S W_dec + b_dec, where S [rows, latents] holds the values at their indices."""
    values, W_dec = computed_in(upcast, values, W_dec)
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
    grad, values, x, W_enc, W_dec = computed_in(upcast, grad, values, x, W_enc, W_dec)
    grad_values = (grad @ W_dec.T).gather(1, indices.to(torch.int64))
    S = _scattered(values, indices, W_dec.shape[0])
    D = _scattered(grad_values.masked_fill(values <= 0, 0), indices, W_enc.shape[0])
    return Gradients(grad_values, S.T @ grad, D.T @ x, D.sum(0), D @ W_enc)


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
    gradients, W_dec = computed_in(upcast, gradients, W_dec)
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
    parameter, grad, mean, square = computed_in(upcast, parameter, grad, mean, square)
    mean = betas[0] * mean + (1 - betas[0]) * grad
    square = betas[1] * square + (1 - betas[1]) * grad * grad
    unbiased = mean / (1 - betas[0] ** step)
    scale = (square / (1 - betas[1] ** step)).sqrt() + eps
    return parameter - lr * unbiased / scale, mean, square


def computed_in(upcast: bool, *tensors: Tensor) -> list[Tensor]:
    """Convert all to float64 if asked or if all are, else to float32."""
    named = {f"argument {place}": tensor for place, tensor in enumerate(tensors)}
    dtype = torch.float64 if upcast else accumulate_dtype(**named)
    return [tensor.to(dtype) for tensor in tensors]


def _scattered(coefficients: Tensor, indices: Tensor, num_latents: int) -> Tensor:
    dense = coefficients.new_zeros(coefficients.shape[0], num_latents)
    return dense.scatter_add(1, indices.to(torch.int64), coefficients)
