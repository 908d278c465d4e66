"""Top examples: for each latent the rows where it was most active, updated batch by batch.

Flow: the values and indices of an encode, with an id per row, go in; the m best rows per latent
are updated in place. A batch is compared with the worst example of each latent first, and after
some batches almost nothing passes, so the rest is small. The state does not depend on the order of
the batches, nor on a batch that comes twice.
"""

import torch
from torch import Tensor

from bathyscope_kernels.dispatch import on_gpu
from bathyscope_kernels.score_blocks import orderable

_LATENT_BITS = 32
_LOW_31 = 2**31 - 1


def no_examples(
    num_latents: int, m: int, *, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Return an empty state: values [num_latents, m] of 0 and rows [num_latents, m] of -1."""
    values = torch.zeros(num_latents, m, device=device)
    return values, torch.full((num_latents, m), -1, dtype=torch.int64, device=device)


@torch.no_grad()
def update_top_examples(
    best_values: Tensor, best_rows: Tensor, values: Tensor, indices: Tensor, row_ids: Tensor
) -> None:
    """Merge a batch into the m best rows of each latent, in place.

    best_values [latents, m] float32 and best_rows [latents, m] int64 hold the examples of each
    latent by value, descending, then by smaller row id; empty slots come last, with value 0 and
    row -1. values [rows, k] floating point (compared as float32) and indices [rows, k] int32 or
    int64 are those of an encode, row_ids [rows] int64 are >= 0.

    Only values above zero count, and NaN, which is larger than all. A triple (latent, value, row)
    that comes twice, in one batch or in two, is kept once. Only the latents that get a new
    example are written. Raises ValueError for shapes, dtypes or devices that do not fit together,
    and for indices or row ids out of range.
    """
    _check(best_values, best_rows, values, indices, row_ids)
    _update(best_values, best_rows, values, indices, row_ids)


@torch.library.custom_op(
    "bathyscope::update_top_examples", mutates_args=("best_values", "best_rows")
)
def _update(
    best_values: Tensor, best_rows: Tensor, values: Tensor, indices: Tensor, row_ids: Tensor
) -> None:
    _check_data(best_values, values, indices, row_ids)
    if on_gpu(best_values, values):
        from bathyscope_kernels.gpu import examples as gpu

        gpu.update_top_examples(best_values, best_rows, values, indices, row_ids)
        return
    new = _entering(best_values, best_rows, values, indices, row_ids)
    if new[0].numel() == 0:
        return
    touched = torch.unique(new[0])
    old = _held(best_values, best_rows, touched)
    latents, found, rows = _ranked(*(torch.cat(pair) for pair in zip(old, new, strict=True)))

    slots = torch.searchsorted(touched, latents)
    starts = torch.searchsorted(latents, touched)
    rank = torch.arange(latents.numel(), device=latents.device) - starts[slots]
    m = best_values.shape[1]
    kept = rank < m
    places = (slots * m + rank)[kept]
    for state, entries, empty in ((best_values, found, 0), (best_rows, rows, -1)):
        merged = torch.full((touched.numel() * m,), empty, dtype=state.dtype, device=state.device)
        merged[places] = entries[kept]
        state.index_copy_(0, touched, merged.view(-1, m))


@_update.register_fake
def _(
    best_values: Tensor, best_rows: Tensor, values: Tensor, indices: Tensor, row_ids: Tensor
) -> None:
    return None


def _entering(
    best_values: Tensor, best_rows: Tensor, values: Tensor, indices: Tensor, row_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, values and rows of the triples that beat the worst of their latent."""
    places = (values <= 0).logical_not_().view(-1).nonzero().squeeze(1)
    latents = indices.reshape(-1)[places].to(torch.int64)
    found = values.reshape(-1)[places].to(torch.float32)
    rows = row_ids[places.div(max(1, values.shape[1]), rounding_mode="floor")]

    worst_rows = best_rows[:, -1][latents]
    # An empty slot is below every value that counts; its own value is never looked at.
    worst = orderable(best_values[:, -1][latents]).masked_fill_(worst_rows < 0, 0)
    order = orderable(found)
    # A value too small for float32 has become 0 and does not count.
    enters = (order > worst) | ((order == worst) & (rows < worst_rows) & (order > 0))
    return latents[enters], found[enters], rows[enters]


def _held(best_values: Tensor, best_rows: Tensor, touched: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, values and rows of the examples that some latents have."""
    rows = best_rows[touched]
    used = rows >= 0
    latents = touched[:, None].expand_as(rows)
    return latents[used], best_values[touched][used], rows[used]


def _ranked(latents: Tensor, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort triples by latent, then value descending, then row, and drop those that repeat."""
    rows, order = torch.sort(rows, stable=True)
    # Values that count are not negative, so latent and value fit one key.
    keys = (latents << _LATENT_BITS) | (_LOW_31 - orderable(values).to(torch.int64))
    keys, by_key = torch.sort(keys[order], stable=True)
    rows, order = rows[by_key], order[by_key]
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = (keys[1:] != keys[:-1]) | (rows[1:] != rows[:-1])
    chosen = order[first]
    return latents[chosen], values[chosen], rows[first]


def _check(
    best_values: Tensor, best_rows: Tensor, values: Tensor, indices: Tensor, row_ids: Tensor
) -> None:
    if best_values.ndim != 2 or best_values.shape != best_rows.shape or not best_values.shape[1]:
        raise ValueError(
            f"got best_values {list(best_values.shape)}, best_rows {list(best_rows.shape)}; wanted "
            "both [latents, m] with m >= 1; `no_examples` makes them"
        )
    if best_values.dtype != torch.float32 or best_rows.dtype != torch.int64:
        raise ValueError(
            f"got best_values of {best_values.dtype}, best_rows of {best_rows.dtype}; wanted "
            "torch.float32 and torch.int64"
        )
    if values.ndim != 2 or values.shape != indices.shape or row_ids.shape != values.shape[:1]:
        raise ValueError(
            f"got values {list(values.shape)}, indices {list(indices.shape)}, row_ids "
            f"{list(row_ids.shape)}; wanted values and indices [rows, k], row_ids [rows]"
        )
    if not values.is_floating_point() or indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"got values of {values.dtype}, indices of {indices.dtype}; wanted floating point "
            "values and torch.int32 or torch.int64 indices"
        )
    if row_ids.dtype != torch.int64:
        raise ValueError(f"got row_ids of {row_ids.dtype}, wanted torch.int64")
    devices = {str(t.device) for t in (best_values, best_rows, values, indices, row_ids)}
    if len(devices) > 1:
        raise ValueError(f"got tensors on {sorted(devices)}, wanted one device")


def _check_data(best_values: Tensor, values: Tensor, indices: Tensor, row_ids: Tensor) -> None:
    """Raise for numbers out of range: part of the operation, as it reads the data."""
    if values.numel() == 0:
        return
    smallest, largest = (int(end) for end in torch.aminmax(indices))
    if smallest < 0 or largest >= best_values.shape[0]:
        raise ValueError(
            f"got indices from {smallest} to {largest}, wanted 0 to {best_values.shape[0] - 1}, "
            "the latents of the state; were they made with another dictionary?"
        )
    if int(row_ids.min()) < 0:
        raise ValueError(f"got row id {int(row_ids.min())}, wanted 0 or more: -1 means no example")
