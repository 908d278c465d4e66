"""Products with a ragged matrix in training: the decode, and gradients row by row.

With S the [rows, latents] matrix of entries (values, indices, offsets), as `Ragged` has it,

    of_decoder:   dW_dec[f] = sum of value * grad[r],      dvalue = grad[r] . W_dec[f]
    of_encoder:   dW_enc[f] = sum of dpre * x[r],          db_enc[f] = sum of dpre

for every latent f that has an entry, summed in ascending order of rows, so that the bits repeat.
Where a row has so many entries that a matmul is quicker (`dispatch`), S is written out for some
rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels import ragged_products
from bathyscope_kernels.cpu import sparse as cpu
from bathyscope_kernels.dispatch import on_gpu, use_dense
from bathyscope_kernels.ragged import Ragged, row_of


class Rows(NamedTuple):
    """Gradients of some rows of a matrix; all others have none."""

    latents: Tensor
    """[listed] int64, ascending."""
    rows: Tensor
    """[listed, d]."""
    biases: Tensor
    """[listed]: the sum of the coefficients of each latent; empty for a decoder, which has none."""


def decode(entries: Ragged, W_dec: Tensor, b_dec: Tensor | None, workspace_bytes: int) -> Tensor:
    """S @ W_dec + b_dec, [rows, d_out]; values and matrix in one dtype."""
    if _is_full(entries, W_dec.shape[0]):
        parts = [S @ W_dec for _, S in _written_out(entries, W_dec.shape[0], workspace_bytes)]
        out = torch.cat(parts)
        return out if b_dec is None else out.add_(b_dec)
    if cpu.usable(entries.values, W_dec, *([] if b_dec is None else [b_dec])):
        return cpu.gather_sum_ragged(*entries, W_dec, b_dec)
    out = ragged_products.gather_sum(*entries, matrix=W_dec, workspace_bytes=workspace_bytes)
    return out if b_dec is None else out.add_(b_dec)


def of_decoder(
    grad: Tensor, entries: Ragged, W_dec: Tensor, workspace_bytes: int
) -> tuple[Rows, Tensor]:
    """The gradient of W_dec and that of the values [nnz]."""
    num_latents = W_dec.shape[0]
    if _is_full(entries, num_latents):
        return _of_decoder_by_matmul(grad, entries, W_dec, workspace_bytes)
    if on_gpu(grad, entries.values, W_dec):
        from bathyscope_kernels.gpu import row_gradients as gpu

        return gpu.of_decoder(grad, entries, W_dec)
    if cpu.usable(grad, entries.values, W_dec):
        rows = row_of(entries.offsets, len(entries.values)).to(torch.int32)
        lists = cpu.entries_by_latent(entries.indices, num_latents)
        dW_dec, dots = cpu.backward_of_decoder(grad, entries.values, rows, W_dec, lists)
        return Rows(lists.latents, dW_dec, dW_dec.new_empty(0)), dots
    dots = ragged_products.sampled_dot(
        grad, entries.indices, entries.offsets, matrix=W_dec, workspace_bytes=workspace_bytes
    )
    return _by_bags(entries, grad, num_latents, workspace_bytes), dots


def of_encoder(entries: Ragged, x: Tensor, num_latents: int, workspace_bytes: int) -> Rows:
    """The gradients of W_enc and b_enc; the values of `entries` are those of pre-activations."""
    if _is_full(entries, num_latents):
        dW_enc, db_enc = x.new_zeros(num_latents, x.shape[1]), x.new_zeros(num_latents)
        for part, S in _written_out(entries, num_latents, workspace_bytes):
            dW_enc.addmm_(S.T, x[part])
            db_enc += S.sum(0)
        return _present(entries.indices, dW_enc, db_enc)
    if on_gpu(entries.values, x):
        from bathyscope_kernels.gpu import row_gradients as gpu

        return gpu.of_encoder(entries, x, num_latents)
    if cpu.usable(entries.values, x):
        rows = row_of(entries.offsets, len(entries.values)).to(torch.int32)
        lists = cpu.entries_by_latent(entries.indices, num_latents)
        return Rows(lists.latents, *cpu.backward_of_encoder(entries.values, rows, x, lists))
    return _by_bags(entries, x, num_latents, workspace_bytes)


def _is_full(entries: Ragged, num_latents: int) -> bool:
    rows = max(entries.num_rows, 1)
    return use_dense(num_latents, -(-entries.values.numel() // rows))


def _written_out(
    entries: Ragged, num_latents: int, workspace_bytes: int
) -> Iterator[tuple[slice, Tensor]]:
    """S, some rows at a time."""
    size = max(1, workspace_bytes // (16 * num_latents))
    for start in range(0, max(entries.num_rows, 1), size):
        rows = slice(start, min(start + size, entries.num_rows))
        yield rows, entries.rows(rows.start, rows.stop).to_dense(num_latents)


def _of_decoder_by_matmul(
    grad: Tensor, entries: Ragged, W_dec: Tensor, workspace_bytes: int
) -> tuple[Rows, Tensor]:
    dW_dec, dots = torch.zeros_like(W_dec), torch.empty_like(entries.values)
    for rows, S in _written_out(entries, W_dec.shape[0], workspace_bytes):
        dW_dec.addmm_(S.T, grad[rows])
        products = grad[rows] @ W_dec.T
        first, last = int(entries.offsets[rows.start]), int(entries.offsets[rows.stop])
        of_rows = row_of(entries.offsets[rows.start : rows.stop + 1] - first, last - first)
        dots[first:last] = products[of_rows, entries.indices[first:last].long()]
    return _present(entries.indices, dW_dec, dW_dec.new_empty(0)), dots


def _present(indices: Tensor, rows: Tensor, biases: Tensor) -> Rows:
    """Only the rows of latents that have an entry; without a copy where all have."""
    latents = torch.bincount(indices.long(), minlength=len(rows)).nonzero().squeeze(1)
    if len(latents) == len(rows):
        return Rows(latents, rows, biases)
    return Rows(latents, rows[latents], biases[latents] if len(biases) else biases)


def _by_bags(entries: Ragged, vectors: Tensor, num_latents: int, workspace_bytes: int) -> Rows:
    lists = ragged_products.by_latent(
        entries.indices, entries.offsets, num_latents=num_latents, only_present=True
    )
    assert lists.latents is not None
    rows = ragged_products.scatter_sum(
        entries.values, lists, vectors=vectors, workspace_bytes=workspace_bytes,
        out_dtype=vectors.dtype,
    )  # fmt: skip
    return Rows(lists.latents, rows, ragged_products.sum_by_latent(entries.values, lists))
