"""Gathers and the backward pass on the CPU, in compiled C++."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.cpu.library import call, library, threads


class Lists(NamedTuple):
    """The nonzeros of S by latent: entries[offsets[i] : offsets[i + 1]] belong to latents[i]."""

    latents: Tensor
    """[listed] int64, ascending."""
    offsets: Tensor
    """[listed + 1] int64."""
    entries: Tensor
    """int64 places row * k + j, ascending in each latent."""


def usable(*tensors: Tensor) -> bool:
    """Whether this path can take the tensors: CPU, float32, contiguous, a library."""
    return (
        all(
            t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous()
            for t in tensors
        )
        and library() is not None
    )


def gather_sum(
    coefficients: Tensor, indices: Tensor, matrix: Tensor, start: Tensor | None = None
) -> Tensor:
    """start + S @ matrix, [rows, d]. Zero coefficients take nothing from their row."""
    rows, k = coefficients.shape
    out = matrix.new_empty(rows, matrix.shape[1])
    call(
        "gather_sum", coefficients, indices.to(torch.int32).contiguous(), matrix, start,
        rows, k, matrix.shape[1], out, threads(),
    )  # fmt: skip
    return out


def rows_by_latent(
    coefficients: Tensor, indices: Tensor, num_latents: int, always: Tensor | None = None
) -> Lists:
    """Turn the lists around; latents with `always` (bool [latents]) are listed in any case."""
    places = coefficients.numel()
    most = min(num_latents, places + (0 if always is None else int(always.sum())))
    starts = torch.empty(num_latents + 1, dtype=torch.int64)
    latents, offsets = torch.empty(most, dtype=torch.int64), torch.empty(most + 1).long()
    entries = torch.empty(places, dtype=torch.int64)
    found = call(
        "rows_by_latent", coefficients, indices, places, num_latents, always, starts, latents,
        offsets, entries,
    )  # fmt: skip
    return Lists(latents[:found], offsets[: found + 1], entries)


def backward(
    grad: Tensor,
    x: Tensor,
    values: Tensor,
    grad_values: Tensor | None,
    W_dec: Tensor,
    lists: Lists,
    *,
    grad_pre: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the listed rows of W_dec, W_enc and b_enc; `grad_pre` [rows, k] is filled."""
    listed = lists.latents.numel()
    dW_dec = grad.new_empty(listed, grad.shape[1])
    dW_enc = grad.new_empty(listed, x.shape[1])
    db_enc = grad.new_empty(listed)
    call(
        "backward", grad, x, values, grad_values, W_dec, *lists, listed, values.shape[1],
        grad.shape[1], x.shape[1], dW_dec, dW_enc, db_enc, grad_pre, threads(),
    )  # fmt: skip
    return dW_dec, dW_enc, db_enc


def gather_sum_ragged(
    coefficients: Tensor,
    indices: Tensor,
    offsets: Tensor,
    matrix: Tensor,
    start: Tensor | None = None,
) -> Tensor:
    """start + S @ matrix, [rows, d], of rows with any number of entries."""
    rows = offsets.numel() - 1
    out = matrix.new_empty(rows, matrix.shape[1])
    call(
        "gather_sum_ragged", coefficients, indices.to(torch.int32).contiguous(),
        offsets.contiguous(), matrix, start, rows, matrix.shape[1], out, threads(),
    )  # fmt: skip
    return out


def entries_by_latent(indices: Tensor, num_latents: int) -> Lists:
    """Turn entries [nnz] around: for each latent their places, ascending."""
    places = indices.numel()
    most = min(num_latents, places)
    starts = torch.empty(num_latents + 1, dtype=torch.int64)
    latents, offsets = torch.empty(most, dtype=torch.int64), torch.empty(most + 1).long()
    entries = torch.empty(places, dtype=torch.int64)
    found = call(
        "rows_by_latent", None, indices.to(torch.int32).contiguous(), places, num_latents, None,
        starts, latents, offsets, entries,
    )  # fmt: skip
    return Lists(latents[:found], offsets[: found + 1], entries)


def backward_of_decoder(
    grad: Tensor, values: Tensor, row_of: Tensor, W_dec: Tensor, lists: Lists
) -> tuple[Tensor, Tensor]:
    """The gradient of the listed rows of W_dec, and that of the values [nnz]."""
    rows, dots = grad.new_empty(lists.latents.numel(), grad.shape[1]), torch.empty_like(values)
    call(
        "backward_of_decoder", grad, values, row_of, W_dec, *lists, len(rows), grad.shape[1],
        rows, dots, threads(),
    )  # fmt: skip
    return rows, dots


def backward_of_encoder(
    coefficients: Tensor, row_of: Tensor, x: Tensor, lists: Lists
) -> tuple[Tensor, Tensor]:
    """The gradients of the listed rows of W_enc and of b_enc."""
    listed = lists.latents.numel()
    rows, biases = x.new_empty(listed, x.shape[1]), x.new_empty(listed)
    call(
        "backward_of_encoder", coefficients, row_of, x, lists.offsets, lists.entries, listed,
        x.shape[1], rows, biases, threads(),
    )  # fmt: skip
    return rows, biases
