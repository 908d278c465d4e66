"""Sampled dots: a batch of gradients against the decoder rows of the active latents.

Flow: gradients [batch, positions, d] and lists of positions, latents and activations go in, scores
[batch, n] come out. The entries are sorted by position. A program takes some entries of one
position: [batch, d] x [d, entries] is a matmul, whose right side is gathered from the decoder on
its way in. Only the scores are stored, where the caller has the entry; no [batch, n, d] exists.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from bathyscope_kernels.gpu.runtime import (
    INTERPRET,
    Configuration,
    check_device,
    on_device,
    register,
    tl,
    triton,
    upcast,
)
from bathyscope_kernels.workspace import accumulate_dtype

_PRECISIONS = ("ieee", "tf32")


@triton.jit(do_not_specialize=["num_positions", "batch", "num_entries"])
def _sampled_dot(  # type: ignore[no-untyped-def]
    gradients, W_dec, latents, activations, order, offsets, tile_offsets, positions, scores,
    num_positions, batch, num_entries, d,
    HAS_ACTIVATIONS: tl.constexpr, SAME_DTYPE: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # Programs that share decoder rows follow each other.
    batch_blocks = tl.cdiv(batch, BLOCK_B)
    tile = tl.program_id(0) // batch_blocks
    position = tl.load(positions + tile).to(tl.int64)
    # There are as many tiles as there can be; those past the last position have nothing to do.
    if position < num_positions:
        first = tl.load(offsets + position)
        first += (tile - tl.load(tile_offsets + position)) * BLOCK_N
        entry = first + tl.arange(0, BLOCK_N)
        listed = entry < tl.load(offsets + position + 1)
        latent = tl.load(latents + entry, mask=listed, other=0).to(tl.int64)
        sample = (tl.program_id(0) % batch_blocks) * BLOCK_B + tl.arange(0, BLOCK_B)
        sampled = sample < batch
        sample = sample.to(tl.int64)
        left = gradients + (sample * num_positions + position)[:, None] * d
        right = W_dec + latent[:, None] * d
        found = tl.zeros([BLOCK_B, BLOCK_N], tl.float32)
        for start in range(0, d, BLOCK_D):
            column = start + tl.arange(0, BLOCK_D)
            inside = (column < d)[None, :]
            gradient = tl.load(left + column[None, :], mask=sampled[:, None] & inside, other=0.0)
            decoder = tl.load(right + column[None, :], mask=listed[:, None] & inside, other=0.0)
            gradient, decoder = upcast(gradient, INTERPRET), upcast(decoder, INTERPRET)
            if not SAME_DTYPE:
                gradient, decoder = gradient.to(tl.float32), decoder.to(tl.float32)
            found = tl.dot(gradient, tl.trans(decoder), found, input_precision=PRECISION)
        if HAS_ACTIVATIONS:
            found *= tl.load(activations + entry, mask=listed, other=0.0)[None, :]
        place = tl.load(order + entry, mask=listed, other=0)
        to = scores + sample[:, None] * num_entries + place[None, :]
        tl.store(to, found, mask=sampled[:, None] & listed[None, :])


@torch.no_grad()
def sampled_dot(
    gradients: Tensor,
    W_dec: Tensor,
    positions: Tensor,
    latents: Tensor,
    activations: Tensor | None = None,
    *,
    precision: str = "ieee",
) -> Tensor:
    """Return activations[i] * gradients[b, positions[i]] . W_dec[latents[i]], [batch, n] float32.

    gradients [batch, positions, d], W_dec [latents, d] and activations [n] (1 if None) are float32,
    bfloat16 or float16 in any mix on one CUDA device, accumulated in float32. positions and latents
    are int32 or int64 [n], in any order and with repeats; scores come in the order of the lists.
    No gradient flows.

    Two matrices of bfloat16, or of float16, are multiplied by tensor cores. Others are multiplied
    in float32, exactly with `precision` "ieee", by tensor cores with "tf32" (10 bits of mantissa).

    Temporaries are lists of n entries; nothing waits for the device. The range of positions and
    latents is the caller's matter. Raises ValueError for shapes, dtypes, devices or a precision
    that do not fit.
    """
    _check(gradients, W_dec, positions, latents, activations, precision)
    batch, num_positions, d = gradients.shape
    n = positions.numel()
    scores = torch.empty(batch, n, dtype=torch.float32, device=gradients.device)
    if scores.numel() == 0:
        return scores
    ascending, order = torch.sort(positions.to(torch.int32), stable=True)
    blocks = _blocks(batch, n / num_positions, exact=_is_exact(gradients, W_dec, precision))
    offsets, tile_offsets, tiles = _tiles(ascending, num_positions, blocks[1])
    scale = None if activations is None else activations.to(torch.float32)[order]
    with on_device(scores):
        _sampled_dot[(tiles.numel() * triton.cdiv(batch, blocks[0]),)](
            gradients.contiguous(), W_dec.contiguous(), latents[order],
            scores if scale is None else scale, order, offsets, tile_offsets, tiles, scores,
            num_positions, batch, n, d,
            HAS_ACTIVATIONS=scale is not None, SAME_DTYPE=gradients.dtype == W_dec.dtype,
            PRECISION=precision, INTERPRET=INTERPRET,
            BLOCK_B=blocks[0], BLOCK_N=blocks[1], BLOCK_D=blocks[2], num_warps=_warps(blocks),
        )  # fmt: skip
    return scores


def _blocks(batch: int, entries_per_position: float, *, exact: bool) -> tuple[int, int, int]:
    """Return how much of the batch, of the entries and of d a program multiplies at a time.

    Without tensor cores the factors pass through registers, which smaller tiles leave room for.
    """
    most = 64 if exact else 128
    samples = min(most, max(16, triton.next_power_of_2(batch)))
    entries = min(64, max(16, triton.next_power_of_2(round(entries_per_position))))
    return int(samples), int(entries), 16 if exact else 64


def _warps(blocks: tuple[int, int, int]) -> int:
    """Large tiles need more threads, or the addresses of the gathers fill the registers."""
    return 8 if blocks[0] * blocks[2] > 64 * 64 else 4


def _is_exact(gradients: Tensor, W_dec: Tensor, precision: str) -> bool:
    in_float32 = gradients.dtype != W_dec.dtype or W_dec.dtype == torch.float32
    return in_float32 and precision == "ieee"


def _tiles(ascending: Tensor, num_positions: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the entries of each position into tiles of `size`.

    Returns where the entries of each position start, where its tiles start, and the position of
    each tile, with as many tiles as there can be: those past the last are at `num_positions`.
    """
    n, device = ascending.numel(), ascending.device
    every = torch.arange(num_positions + 1, device=device, dtype=ascending.dtype)
    offsets = torch.searchsorted(ascending, every)
    per_position = offsets.diff().add(size - 1).div(size, rounding_mode="floor")
    tile_offsets = pad(per_position.cumsum(0), (1, 0))
    most = n // size + min(n, num_positions)
    numbers = torch.arange(most, device=device)
    return offsets, tile_offsets, torch.searchsorted(tile_offsets, numbers, right=True) - 1


def _check(
    gradients: Tensor,
    W_dec: Tensor,
    positions: Tensor,
    latents: Tensor,
    activations: Tensor | None,
    precision: str,
) -> None:
    if gradients.ndim != 3 or W_dec.ndim != 2 or gradients.shape[2] != W_dec.shape[1]:
        raise ValueError(
            f"got gradients {list(gradients.shape)}, W_dec {list(W_dec.shape)}; wanted gradients "
            "[batch, positions, d] and W_dec [latents, d] of one d; rows of W_dec are latents, "
            "transpose it if they are not"
        )
    lists = {"positions": positions, "latents": latents}
    tensors = {"gradients": gradients, "W_dec": W_dec}
    for name, given in lists.items():
        if given.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"got {name} of {given.dtype}, wanted torch.int32 or torch.int64")
    if activations is not None:
        tensors["activations"] = lists["activations"] = activations
    if any(given.shape != (positions.numel(),) for given in lists.values()):
        got = ", ".join(f"{name} {list(given.shape)}" for name, given in lists.items())
        raise ValueError(f"got {got}; wanted lists [n] of one length")
    if accumulate_dtype(**tensors) != torch.float32:
        raise ValueError(
            "got float64, wanted float32, bfloat16 or float16: the GPU kernels sum in float32; "
            "use the function of the same name in bathyscope_kernels"
        )
    if precision not in _PRECISIONS:
        raise ValueError(f"got precision {precision!r}, wanted one of {', '.join(_PRECISIONS)}")
    check_device(*lists.values(), *tensors.values())


def _configuration(
    dtype: str,
    blocks: tuple[int, int, int],
    *,
    gradients: str | None = None,
    precision: str = "ieee",
    mma: bool = False,
) -> Configuration:
    return Configuration(
        signature={
            "gradients": f"*{gradients or dtype}:16", "W_dec": f"*{dtype}:16", "latents": "*i64:16",
            "activations": "*fp32:16", "order": "*i64:16", "offsets": "*i64:16",
            "tile_offsets": "*i64:16", "positions": "*i64:16", "scores": "*fp32:16",
            "num_positions": "i32", "batch": "i32", "num_entries": "i32", "d": "i32:16",
        },
        constexprs={
            "HAS_ACTIVATIONS": True, "SAME_DTYPE": gradients is None, "PRECISION": precision,
            "INTERPRET": False, "BLOCK_B": blocks[0], "BLOCK_N": blocks[1], "BLOCK_D": blocks[2],
        },
        num_warps=_warps(blocks),
        expected_mma=mma,
    )  # fmt: skip


register(
    "sampled_dot",
    _sampled_dot,
    [
        _configuration("bf16", (128, 64, 64), mma=True),
        _configuration("bf16", (16, 16, 64), mma=True),
        _configuration("fp32", (64, 64, 16)),
        _configuration("fp32", (16, 16, 16)),
        _configuration("bf16", (64, 64, 16), gradients="fp32"),
        _configuration("fp32", (128, 64, 64), precision="tf32", mma=True),
    ],
)
