"""Gradients of rows of W_enc and W_dec on a GPU: a sweep of `segment_sums` each."""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope_kernels.gpu.lists import Lists, rows_by_latent, segment_length
from bathyscope_kernels.gpu.segment_sums import SegmentSums
from bathyscope_kernels.ragged import Ragged, row_of
from bathyscope_kernels.row_gradients import Rows


@torch.no_grad()
def of_decoder(grad: Tensor, entries: Ragged, W_dec: Tensor) -> tuple[Rows, Tensor]:
    """As in `row_gradients`; values, grad and W_dec are float32, bfloat16 or float16."""
    lists = _lists(entries, W_dec.shape[0], W_dec.shape[1])
    sweep = SegmentSums(lists, lists.latents, W_dec.dtype)
    rows, dots = sweep.with_dots(entries.values[lists.places].float(), grad, W_dec)
    dvalues = torch.empty(entries.values.shape, dtype=torch.float32, device=grad.device)
    dvalues[lists.places] = dots
    return Rows(lists.latents, rows, rows.new_empty(0)), dvalues.to(entries.values.dtype)


@torch.no_grad()
def of_encoder(entries: Ragged, x: Tensor, num_latents: int) -> Rows:
    """As in `row_gradients`."""
    lists = _lists(entries, num_latents, x.shape[1])
    sweep = SegmentSums(lists, lists.latents, x.dtype)
    return Rows(lists.latents, *sweep.with_sums(entries.values[lists.places].float(), x))


def _lists(entries: Ragged, num_latents: int, d: int) -> Lists:
    """The entries by latent; each is a list of one, whose row is looked up."""
    count = entries.values.numel()
    ones = torch.ones(count, 1, device=entries.values.device)
    length = segment_length(count, d)
    lists = rows_by_latent(ones, entries.indices[:, None], num_latents, length=length)
    rows = row_of(entries.offsets, count).to(torch.int32)
    return lists._replace(rows=rows[lists.places])
