"""The lists of an encode turned around: for each latent the rows where it was active.

Flow: values and indices [rows, k] go in; the latents that are present, and for each of them its
entries in ascending order of rows, come out, cut into segments of bounded length, so that a latent
that is active everywhere becomes many programs instead of one long one.

A stable sort does the turning, so the lists, and every sum over them, are the same each time. The
device is waited for once: for the sizes of what comes out.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

MIN_SEGMENT = 128
"""Entries in a segment, if bounded memory does not ask for longer ones."""
_PARTIAL_BYTES = 64 * 2**20
# Entries are numbered in int32, and a program looks some way past the last one.
_MAX_VALUES = 2**31 - 1024 - 1


class Segments(NamedTuple):
    """Runs of entries, each of one latent, and where their sums go."""

    starts: Tensor
    """[segments + 1] int32: entries starts[s] to starts[s + 1] are those of segment s."""
    owners: Tensor
    """[segments] int32: the latent of segment s is latents[owners[s]]."""
    partials: Tensor
    """[segments] int32: which partial sum this is if its latent has several segments, else -1."""
    num_partials: int
    split: Tensor
    """[split] int32: the owners with several segments."""
    split_offsets: Tensor
    """[split + 1] int32: partial sums split_offsets[i] to split_offsets[i + 1] are of split[i]."""


class Lists(NamedTuple):
    """The nonzero values by latent."""

    latents: Tensor
    """[n] int64, ascending."""
    offsets: Tensor
    """[n + 1] int32: entries offsets[i] to offsets[i + 1] are those of latents[i]."""
    places: Tensor
    """[entries] int64: places row * k + j, ascending within each latent."""
    rows: Tensor
    """[entries] int32, the rows of the places."""
    coefficients: Tensor
    """[entries] float32, the values at the places."""
    segments: Segments


def segment_length(num_entries: int, d: int) -> int:
    """Return how many entries a segment has: 128, or more where their sums would not fit 64 MiB.

    Only latents with several segments have partial sums, [d] float32 each, and there are at most
    2 * num_entries / length of them.
    """
    least = 2 * num_entries * 4 * d // _PARTIAL_BYTES
    return max(MIN_SEGMENT, -(-least // MIN_SEGMENT) * MIN_SEGMENT)


def rows_by_latent(values: Tensor, indices: Tensor, num_latents: int, *, length: int) -> Lists:
    """Turn the nonzero values [rows, k] around, in segments of at most `length` entries.

    Zeros are left out: unused slots and what a ReLU cut off. NaN is not zero. An index that comes
    twice in a row makes two entries, in list order. Raises ValueError for close to 2^31 values.
    """
    if values.numel() > _MAX_VALUES:
        raise ValueError(
            f"got {values.numel()} values, wanted at most {_MAX_VALUES}; cut the batch into parts"
        )
    flat = values.reshape(-1).to(torch.float32)
    # Zeros get a latent past the last one: they sort to the end and are cut off there.
    keys = indices.reshape(-1).to(torch.int32).masked_fill(flat == 0, num_latents)
    keys, places = torch.sort(keys, stable=True)
    used = keys < num_latents
    # How many entries of the same latent come before this one.
    before = torch.arange(keys.numel(), device=keys.device) - torch.searchsorted(keys, keys)
    marks = (used, used & (before == 0), used & (before % length == 0), used & (before == length))
    sizes = torch.stack([mark.sum() for mark in marks]).tolist()
    num_used, n, num_segments, num_split = sizes
    places = places[:num_used]
    offsets = places_of(marks[1], n, end=num_used)
    return Lists(
        keys[offsets[:-1].long()].long(),
        offsets,
        places,
        places.div(max(1, values.shape[1]), rounding_mode="floor").to(torch.int32),
        flat[places],
        _segments(marks[2], offsets, num_segments, num_split, length),
    )


def _segments(
    marks: Tensor, offsets: Tensor, num_segments: int, num_split: int, length: int
) -> Segments:
    starts = places_of(marks, num_segments, end=0)
    starts[-1:] = offsets[-1:]
    owners = torch.searchsorted(offsets, starts[:-1], right=True, out_int32=True) - 1
    counts = offsets.diff()
    is_split = counts > length
    among_split = is_split[owners.long()]
    numbers = among_split.cumsum(0, dtype=torch.int32) - 1
    split = places_of(is_split, num_split, end=0)[:-1]
    per_split = counts[split.long()].add(length - 1).div(length, rounding_mode="floor")
    return Segments(
        starts,
        owners,
        numbers.masked_fill(~among_split, -1),
        # Every other latent has one segment.
        num_segments - (counts.numel() - num_split),
        split,
        pad(per_split.cumsum(0, dtype=torch.int32), (1, 0)),
    )


def places_of(marks: Tensor, count: int, *, end: int) -> Tensor:
    """Return the places of the `count` marks, then `end`: [count + 1] int32, without waiting."""
    numbers = torch.arange(1, count + 1, device=marks.device, dtype=torch.int32)
    found = torch.searchsorted(marks.cumsum(0, dtype=torch.int32), numbers, out_int32=True)
    return pad(found, (0, 1), value=end)
