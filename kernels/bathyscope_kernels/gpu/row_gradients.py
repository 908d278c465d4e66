"""Gradients of rows of W_enc and W_dec on a GPU: a sweep of `segment_sums` each."""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope_kernels.gpu.lists import Lists, rows_by_latent, segment_length
from bathyscope_kernels.gpu.segment_sums import SegmentSums
from bathyscope_kernels.row_gradients import Rows


@torch.no_grad()
def of_decoder(
    grad: Tensor, values: Tensor, indices: Tensor, used: Tensor, W_dec: Tensor
) -> tuple[Rows, Tensor]:
    """As in `row_gradients`; values, grad and W_dec are float32, bfloat16 or float16."""
    lists, sweep = _lists(indices, used, W_dec.shape[0], W_dec.shape[1], W_dec.dtype)
    rows, dots = sweep.with_dots(values.reshape(-1)[lists.places].float(), grad, W_dec)
    dvalues = torch.zeros(values.shape, dtype=torch.float32, device=values.device)
    dvalues.view(-1)[lists.places] = dots
    return Rows(lists.latents, rows, rows.new_empty(0)), dvalues.to(values.dtype)


@torch.no_grad()
def of_encoder(
    grad_pre: Tensor, indices: Tensor, used: Tensor, x: Tensor, num_latents: int
) -> Rows:
    """As in `row_gradients`."""
    lists, sweep = _lists(indices, used, num_latents, x.shape[1], x.dtype)
    return Rows(lists.latents, *sweep.with_sums(grad_pre.reshape(-1)[lists.places].float(), x))


def _lists(
    indices: Tensor, used: Tensor, num_latents: int, d: int, dtype: torch.dtype
) -> tuple[Lists, SegmentSums]:
    length = segment_length(indices.numel(), d)
    lists = rows_by_latent(used.to(torch.float32), indices, num_latents, length=length)
    return lists, SegmentSums(lists, lists.latents, dtype)
