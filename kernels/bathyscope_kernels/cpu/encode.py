"""TopK encode on the CPU: a matmul in blocks, then a filter that reads each score once.

Flow: blocks of scores from torch's matmul go through the compiled filter, which keeps the few
columns that can still be among the k best of their row; at the end those are put in order.

Where the CPU multiplies bfloat16 natively the scores are made in bfloat16, two to three times
quicker. They are wrong by at most

    |s - s~| <= |dx| |w| + |x~| |dw| + g |x| |w|  +  2^-9 |s~|

(what rounding took from x and w, by Cauchy-Schwarz; float32 accumulation, g = (d + 8) 2^-23; the
rounding of the result). Every column within that margin is kept and scored again in float32, so
the choice is exact up to float32 rounding. Rows that the margin cannot cover (infinite, tiny) or
that keep too many columns (ties) are reported and done again without rounding.
"""

from __future__ import annotations

import ctypes
import enum
import functools
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.cpu.library import call, library, threads
from bathyscope_kernels.workspace import blocks

_LANES = 16
_ROWS = 512
_LATENTS = 8192
_ROUNDING = 0.00197
"""2^-9 / (1 - 2^-9), and room for the arithmetic of the bounds themselves."""
_SMALLEST, _LARGEST = 1e-12, 1e37
# Below this many products rounding and scoring again cost more than they save.
_MIN_PRODUCTS = 2**24


class Rule(enum.IntEnum):
    """What competes: the numbers are those of the C++."""

    POSITIVE = 0
    MAGNITUDE = 1
    ALL = 2


class _State(NamedTuple):
    """The columns that each row keeps."""

    rule: ctypes.c_int
    k: int

    floor: Tensor
    kept: Tensor
    num_kept: Tensor
    capacity: int


def why_not(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> str:
    """Why this path cannot take the tensors; empty if it can."""
    if W_enc.device.type != "cpu":
        return f"tensors on {W_enc.device}"
    if W_enc.dtype != torch.float32 or torch.float64 in (x.dtype, b_enc.dtype):
        return f"W_enc is {W_enc.dtype}, the compiled path wants torch.float32"
    if not W_enc.is_contiguous() or W_enc.numel() == 0:
        return "W_enc is not contiguous or empty"
    return "" if library() is not None else "no compiled library"


def why_rounded(rounded: bool) -> str:
    """The reason for the dtype of the scores, for people."""
    if rounded:
        return "this CPU multiplies bfloat16"
    return "too small to pay, or a subset" if rounds_scores() else "no bfloat16 units"


@functools.cache
def rounds_scores() -> bool:
    """Whether scores are made in bfloat16: the CPU multiplies it, and sums in float32."""
    with_units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(with_units) and sums_in_float32()


def sums_in_float32() -> bool:
    """Whether torch's bfloat16 matmul accumulates in float32, which the margin relies on."""
    # 256 + 256 ones: a bfloat16 sum would stay at 256, where the next number is 258.
    x = torch.ones(64, 512, dtype=torch.bfloat16)
    x[:, 0] = 256
    return bool((x @ torch.ones(128, 512, dtype=torch.bfloat16).T > 512).all())


def rounding_pays(rows: int, d: int, num_latents: int, k: int) -> bool:
    """Whether bfloat16 scores are quicker: enough products, few of them scored again."""
    return rows * d * num_latents >= _MIN_PRODUCTS and num_latents >= 16 * k and rounds_scores()


def topk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    k: int,
    *,
    workspace_bytes: int,
    rounded: bool,
    rule: Rule = Rule.POSITIVE,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return values, indices, count, and the numbers of the rows that must be done another way.

    x is float32 [rows, d], contiguous; W_enc [latents, d] float32, contiguous; b_enc float32.
    With `subset` the indices are positions in it; `rounded` and other rules than POSITIVE want
    none, and MAGNITUDE wants a bias of zeros.
    """
    scored_again = rounded or rule == Rule.MAGNITUDE
    rows = x.shape[0]
    values = x.new_empty(rows, k)
    indices = torch.empty(rows, k, dtype=torch.int32)
    count = torch.empty(rows, dtype=torch.int32)
    undone = []
    capacity = -(-(4 * k + 96) // _LANES) * _LANES
    num_rows = max(1, workspace_bytes // 2 // (12 * capacity + 2 * x.shape[1] + 24))
    for part in blocks(rows, num_rows):
        state = _new_state(rule, part.stop - part.start, k, capacity)
        if rounded:
            _filter_rounded(x[part], W_enc, b_enc, state, workspace_bytes // 2)
        else:
            _filter(x[part], W_enc, b_enc, subset, state, workspace_bytes // 2)
        call(
            "finish", state.rule, x[part], W_enc if scored_again else None, b_enc,
            part.stop - part.start, x.shape[1], k, capacity, state.floor, state.kept,
            state.num_kept, values[part], indices[part], count[part], threads(),
        )  # fmt: skip
        undone.append((state.num_kept < 0).nonzero().squeeze(1) + part.start)
    return values, indices, count, torch.cat(undone) if undone else indices.new_empty(0).long()


def keep_largest(scores: Tensor, k: int) -> Tensor:
    """Keep the k largest positive scores of each row, in place, and set the others to zero.

    `scores` is float32 [rows, columns], contiguous. Of equals the first stay; NaN is largest.
    """
    call("keep_largest", scores, *scores.shape, k, threads())
    return scores


def _new_state(rule: Rule, rows: int, k: int, capacity: int) -> _State:
    floor = torch.full((rows,), -torch.inf if rule == Rule.ALL else 0.0)
    kept = torch.empty(rows, capacity, 3, dtype=torch.float32)
    num_kept = torch.zeros(rows, dtype=torch.int32)
    return _State(ctypes.c_int(rule), k, floor, kept, num_kept, capacity)


def _widths(latents: int, bytes_per_latent: int, budget_bytes: int) -> tuple[int, int]:
    """How many rows and latents are scored at a time."""
    fitting = budget_bytes // (4 * _ROWS + bytes_per_latent)
    widest = max(_LANES, min(_LATENTS, fitting) // _LANES * _LANES)
    # Equal blocks: a short last one would cost as many calls as a full one.
    equal = -(-latents // -(-latents // widest))
    return _ROWS, -(-equal // _LANES) * _LANES


def _filter(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    state: _State,
    budget_bytes: int,
) -> None:
    """Keep by float32 scores."""
    total = W_enc.shape[0] if subset is None else subset.numel()
    gathered = 0 if subset is None else 4 * x.shape[1]
    num_rows, width = _widths(total, 8 + gathered, budget_bytes)
    scores = x.new_empty(min(num_rows, x.shape[0]), width)
    bias = x.new_empty(width)
    for latents in blocks(total, width):
        used = latents.stop - latents.start
        chosen = latents if subset is None else subset[latents]
        bias[:used], bias[used:] = b_enc[chosen], -torch.inf
        scores[:, used:] = 0
        W = W_enc[chosen].T
        for rows in blocks(x.shape[0], num_rows):
            filled = scores[: rows.stop - rows.start]
            torch.mm(x[rows], W, out=filled[:, :used])
            call(
                "filter_fp32", state.rule, filled, width, filled.shape[0], latents.start, width,
                latents.stop, bias, state.k, state.capacity, state.floor[rows],
                state.kept[rows], state.num_kept[rows], threads(),
            )  # fmt: skip


def _filter_rounded(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, state: _State, budget_bytes: int
) -> None:
    """Keep by bfloat16 scores and their margins."""
    d = x.shape[1]
    num_rows, width = _widths(W_enc.shape[0], 2 * d + 24, budget_bytes)
    x_rounded, x_norm, x_lost = _round(x, x.shape[0])
    scores = x_rounded.new_empty(min(num_rows, x.shape[0]), width)
    state.num_kept[~((x_norm > _SMALLEST) & (x_norm < _LARGEST))] = -1
    for latents in blocks(W_enc.shape[0], width):
        W_rounded, norm, lost = _round(W_enc[latents], width)
        share = torch.where(norm > _SMALLEST, lost / norm, 0).amax()
        error = (x_lost + (x_norm + x_lost) * share + x_norm * ((d + 8) * 2.0**-23)) * 1.001
        state.num_kept[~(x_norm * norm.amax() < _LARGEST)] = -1
        # Tiny latents, whose squares vanish, get a margin of 1e-9 of a unit latent's.
        norm = norm * (1 + d * 2.0**-22) + 1e-9
        high, low = _widened(b_enc[latents], width)
        for rows in blocks(x.shape[0], num_rows):
            filled = scores[: rows.stop - rows.start]
            torch.mm(x_rounded[rows], W_rounded.T, out=filled)
            call(
                "filter_bf16", state.rule, filled, width, filled.shape[0], latents.start, width,
                latents.stop, high, low, norm, error[rows], _ROUNDING, state.k, state.capacity,
                state.floor[rows], state.kept[rows], state.num_kept[rows], threads(),
            )  # fmt: skip


def _round(rows: Tensor, padded: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in bfloat16, their norms and the norms of what was lost; zeros up to `padded` rows."""
    used, d = rows.shape
    rounded = torch.empty(padded, d, dtype=torch.bfloat16)
    norm, lost = torch.zeros(padded), torch.zeros(padded)
    rounded[used:] = 0
    call("round_rows", rows, used, d, rounded, norm, lost, threads())
    return rounded, norm, lost


def _widened(bias: Tensor, padded: int) -> tuple[Tensor, Tensor]:
    """Biases a little up and a little down; -inf past the last one keeps the padding out."""
    high, low = torch.full((padded,), -torch.inf), torch.full((padded,), -torch.inf)
    slack = bias.abs() * 5e-7
    high[: len(bias)], low[: len(bias)] = bias + slack, bias - slack
    return high, low
