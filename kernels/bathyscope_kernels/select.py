"""The k largest positive scores of each row, exactly, a block of latents at a time.

Flow: `best_of_block` takes the scores of consecutive latents, `merge` joins two such results,
`finish` applies the ReLU. Order everywhere: larger value first, then smaller index; NaN above +inf.

Two ideas make it quick. Only positive scores matter, and positive floats compare like their bits,
so the bulk goes through an int32 top-k, 1.4 times quicker here than one of floats. And the top
k + 1 lie in the k + 1 groups of columns with the largest maxima, so two small top-k calls replace
a long one. Both break ties at random; the score in place k + 1 shows whether one could matter, and
the rows where it could, or that hold a NaN, are selected again on order keys.
"""

import math

import torch
from torch import Tensor

from bathyscope_kernels.keys import pack_keys, unpack_keys
from bathyscope_kernels.workspace import blocks

_INT_OF = {torch.float32: torch.int32, torch.float64: torch.int64}


def choose_groups(num_latents: int, k: int) -> tuple[int, int]:
    """Return the group size of the two-level selection (1 for none) and the padded column count.

    A row costs num_latents / g entries for the maxima and g * (k + 1) for the members, least at
    g = sqrt(num_latents / (k + 1)); below 3 the saving no longer pays for the gather. g is rounded
    to a multiple of 4 so that common numbers of latents need no padding. A group takes every n-th
    column with n a multiple of 16: rows that do not start on a cache line made the matmul that
    fills them up to 20 % slower (2048 rows, d 576, 8192 latents, AVX2).
    """
    best = math.sqrt(num_latents / (k + 1))
    group_size = max(4, round(best / 4) * 4) if best >= 3 else 1
    per_step = 16 * group_size
    return group_size, -(-num_latents // per_step) * per_step


def best_of_block(
    scores: Tensor, *, num_latents: int, k: int, group_size: int, workspace_bytes: int
) -> tuple[Tensor, Tensor]:
    """Return values [rows, k] and int64 indices [rows, k] of the k largest scores of each row.

    `scores` is float32 or float64 [rows, columns]; columns from `num_latents` on are padding that
    holds -inf, as many as `choose_groups` wants. Wants 1 <= k <= num_latents. Scores
    that are not positive come in no particular order, after all that are.
    """
    width = min(k + 1, num_latents)
    if group_size > 1:
        indices, has_nan = _largest_by_groups(scores, width, group_size)
    else:
        indices = _top_bits(scores, width)
        has_nan = scores.amax(1).isnan()
    values, indices = _in_order(scores.gather(1, indices), indices)
    again = has_nan
    if width > k:
        again = again | ((values[:, k - 1] == values[:, k]) & (values[:, k] > 0))
    values, indices = values[:, :k], indices[:, :k]
    if bool(again.any()):
        rows = again.nonzero().squeeze(1)
        # Keys and the steps on the way to them: about six int64 per score.
        per_block = max(1, workspace_bytes // (6 * 8 * scores.shape[1]))
        for part in blocks(rows.numel(), per_block):
            chosen = rows[part]
            values[chosen], indices[chosen] = _exact(scores[chosen, :num_latents], k)
    return values, indices


def merge(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """Return the k best (fewer if there are fewer) of two results over different latents.

    All latents of `first` come before those of `second`.
    """
    values = torch.cat([first[0], second[0]], dim=1)
    indices = torch.cat([first[1], second[1]], dim=1)
    values, indices = _in_order(values, indices)
    return values[:, :k], indices[:, :k]


def finish(values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Apply the ReLU: return values, int32 indices and the int32 count of entries above zero.

    Slots past the count hold value 0 and index 0. A NaN counts as an entry.
    """
    unused = values <= 0
    count = (~unused).sum(1, dtype=torch.int32)
    return values.masked_fill(unused, 0), indices.masked_fill(unused, 0).to(torch.int32), count


def _top_bits(scores: Tensor, width: int) -> Tensor:
    """Return the columns of the `width` largest scores, right as far as those are positive."""
    bits = scores.view(_INT_OF[scores.dtype])
    return torch.topk(bits, width, dim=1, sorted=False).indices


def _largest_by_groups(scores: Tensor, width: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Return the columns of the `width` largest scores, and which rows hold a NaN.

    A group is every (columns / group_size)-th column, so that the maxima are element-wise maxima
    of long contiguous runs, which vectorise.
    """
    rows, columns = scores.shape
    num_groups = columns // group_size
    maxima = scores.view(rows, group_size, num_groups).amax(1)
    groups = _top_bits(maxima, width)
    steps = torch.arange(0, columns, num_groups, device=scores.device)
    members = (groups[:, None, :] + steps[:, None]).view(rows, -1)
    best = _top_bits(scores.gather(1, members), width)
    return members.gather(1, best), maxima.amax(1).isnan()


def _in_order(values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    if values.dtype == torch.float32:
        keys = torch.sort(pack_keys(values, indices), dim=1, descending=True).values
        return unpack_keys(keys)
    # float64 has no room in a key: sort by index, then stably by value.
    indices, order = torch.sort(indices, dim=1)
    values, by_value = torch.sort(values.gather(1, order), dim=1, descending=True, stable=True)
    return values, indices.gather(1, by_value)


def _exact(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    columns = torch.arange(scores.shape[1], device=scores.device)
    if scores.dtype == torch.float32:
        return unpack_keys(torch.topk(pack_keys(scores, columns), k, dim=1).values)
    values, indices = torch.sort(scores, dim=1, descending=True, stable=True)
    return values[:, :k], indices[:, :k]
