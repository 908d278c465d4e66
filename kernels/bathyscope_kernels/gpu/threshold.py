"""Threshold selection: every score above a bound, as ragged rows.

Flow: a block of rows goes through all columns; the filter appends what it keeps to a list per row,
in ascending order of columns. The lengths of the lists give the offsets, and `_pack_lists` copies
the lists behind each other. A block that has a longer list than there is room for is done again
with room for it, so there is no limit on the length of a row.
"""

import torch
from torch import Tensor

from bathyscope_kernels.gpu.filter import append_in_order, empty_candidates
from bathyscope_kernels.gpu.keys import column_in, score_in
from bathyscope_kernels.gpu.runtime import Configuration, on_device, register, tl, triton
from bathyscope_kernels.gpu.scores import Scores
from bathyscope_kernels.gpu.select import Candidates
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype, blocks

_FIRST_CAPACITY = 512
_BLOCK = 256

Result = tuple[Tensor, Tensor, Tensor, Tensor]


@triton.jit(do_not_specialize=["capacity"])
def _pack_lists(  # type: ignore[no-untyped-def]
    entries, count, offsets, threshold, values, indices, active, capacity,
    HAS_THRESHOLD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    used = slot < tl.load(count + row)
    entry = tl.load(entries + row * capacity + slot, mask=used, other=0)
    score, column = score_in(entry), column_in(entry)
    to = tl.load(offsets + row) + slot
    if HAS_THRESHOLD:
        lower = tl.load(threshold + column, mask=used, other=0.0)
        # Negated so that a NaN is active.
        above = ~(score <= lower)
        score = tl.where(above, score, 0.0)
        tl.store(active + to, above.to(tl.uint8), mask=used)
    tl.store(values + to, score, mask=used)
    tl.store(indices + to, column, mask=used)


@torch.no_grad()
def threshold_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: Tensor,
    *,
    bandwidth: float = 0.0,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Result:
    """Return pre * (pre > threshold) for pre = x @ W_enc^T + b_enc, without a gradient (JumpReLU).

    Entries are all with pre > threshold - bandwidth / 2: values [nnz] float32, 0 where not active;
    indices [nnz] int32, ascending within a row; offsets [rows + 1] int64; active [nnz] bool. A NaN
    is kept and active.

    x [rows, d], W_enc [latents, d], b_enc and threshold [latents] are float32, bfloat16 or float16
    in any mix on one CUDA device; products of float32 follow
    torch.backends.cuda.matmul.allow_tf32. At most `workspace_bytes` of temporaries are used beside
    lists as long as the result, unless one row alone needs more. Reads two numbers per block of
    rows back from the device. Raises ValueError for what does not fit together.
    """
    if threshold.shape != b_enc.shape or threshold.device != b_enc.device:
        raise ValueError(
            f"got a threshold {list(threshold.shape)} on {threshold.device}, wanted "
            f"{list(b_enc.shape)} on {b_enc.device}: one number per latent, as b_enc has"
        )
    accumulate_dtype(b_enc=b_enc, threshold=threshold)
    if not 0 <= bandwidth < float("inf"):
        raise ValueError(f"got bandwidth = {bandwidth}, wanted a finite number >= 0")
    theta = threshold.to(torch.float32).contiguous()
    return select_above(
        Scores(x, W_enc, b_enc),
        theta - bandwidth / 2,
        per_column=True,
        magnitude=False,
        threshold=theta,
        workspace_bytes=workspace_bytes,
    )


def select_above(
    scores: Scores,
    bound: Tensor,
    *,
    per_column: bool,
    magnitude: bool,
    threshold: Tensor | None = None,
    workspace_bytes: int,
) -> Result:
    """Return values, indices, offsets and activity of all scores above `bound`.

    `bound` is float32, one for each row or each column. `threshold` [columns] float32 decides what
    is active; without it all is, and the last tensor is empty.
    """
    device = scores.device
    pieces = [_empty(0, threshold is not None, device)]
    counts = [torch.empty(0, dtype=torch.int32, device=device)]
    capacity = max(1, min(scores.num_columns, _FIRST_CAPACITY))
    lists: Candidates | None = None
    start = 0
    while start < scores.num_rows and scores.num_columns > 0:
        if lists is None:
            plan = scores.plan(bytes_per_row=8 * capacity + 16, workspace_bytes=workspace_bytes)
            lists = empty_candidates(plan.num_rows, capacity, device)
        rows = slice(start, min(start + plan.num_rows, scores.num_rows))
        here = Candidates(*(tensor[: rows.stop - rows.start] for tensor in lists))
        here.lengths.zero_()
        for columns in blocks(scores.num_columns, plan.num_columns):
            append_in_order(
                scores.chunk(rows, columns), scores.bias_of(columns),
                bound[columns] if per_column else bound[rows], here,
                first_column=columns.start, magnitude=magnitude, per_column=per_column,
            )  # fmt: skip
        longest, total = torch.stack([here.lengths.amax().long(), here.lengths.sum()]).tolist()
        if longest > capacity:
            # Once more with room for the longest list, and fewer rows if it takes that.
            capacity = min(scores.num_columns, triton.next_power_of_2(longest))
            lists = None
            continue
        pieces.append(_packed(here, threshold, longest=longest, total=total))
        counts.append(here.lengths.clone())
        start = rows.stop
    values, indices, active = (torch.cat(piece) for piece in zip(*pieces, strict=True))
    lengths = torch.cat(counts) if scores.num_columns > 0 else bound.new_zeros(scores.num_rows)
    return values, indices, _offsets(lengths), active.view(torch.bool)


def _packed(
    lists: Candidates, threshold: Tensor | None, *, longest: int, total: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Copy the lists behind each other: values, indices and, as bytes, activity."""
    rows, capacity = lists.entries.shape
    out = _empty(total, threshold is not None, lists.lengths.device)
    if total > 0:
        offsets = _offsets(lists.lengths)
        with on_device(offsets):
            _pack_lists[(rows, triton.cdiv(longest, _BLOCK))](
                *lists, offsets, threshold if threshold is not None else out[0], *out, capacity,
                HAS_THRESHOLD=threshold is not None, BLOCK=_BLOCK, num_warps=2,
            )  # fmt: skip
    return out


def _empty(size: int, has_activity: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty(size, dtype=torch.float32, device=device),
        torch.empty(size, dtype=torch.int32, device=device),
        torch.empty(size if has_activity else 0, dtype=torch.uint8, device=device),
    )


def _offsets(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int64), (1, 0))


register(
    "pack_lists",
    _pack_lists,
    [
        Configuration(
            {
                "entries": "*i64:16", "count": "*i32:16", "offsets": "*i64:16",
                "threshold": "*fp32:16", "values": "*fp32:16", "indices": "*i32:16",
                "active": "*u8:16", "capacity": "i32",
            },
            {"HAS_THRESHOLD": has_threshold, "BLOCK": _BLOCK},
            num_warps=2,
        )
        for has_threshold in (True, False)
    ],
)  # fmt: skip
