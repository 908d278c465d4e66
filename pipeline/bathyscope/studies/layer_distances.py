"""How little a run of blocks changes the residual stream.

    angular distance   d(l, n) = arccos(cos(x_l, x_{l+n})) / π     (Gromov et al. 2024)
    Block Influence    BI_l    = 1 - E[cos(x_l, x_{l+1})]          (Men et al. 2024, ShortGPT)

x_l is the stream before block l, x_L that after the last. The first paper takes the last token of
each sequence, the second all tokens; both averages are kept.

Flows in: residual streams [batch, positions, d] of one place after another. Flows out: tables over
all pairs of places, from which n blocks to drop are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bathyscope.errors import ConfigError, HookPointError, NonFiniteError
from bathyscope.models.capture import Capture, Inputs
from bathyscope.models.hook_points import layer_numbers

_CHUNK_BYTES = 2**26


@dataclass(frozen=True)
class LayerDistances:
    """Averages over tokens of pairs of streams; place l is before block l, the last after all."""

    last: Tensor
    """Angular distance at the last token of each sequence [L + 1, L + 1], float64, in [0, 1]."""
    all_tokens: Tensor
    """The same over all tokens that count."""
    cosine: Tensor
    """Mean cosine over all tokens that count [L + 1, L + 1]."""
    sequences: int
    tokens: int

    def angular(self, n: int, *, all_tokens: bool = False) -> Tensor:
        """d(l, n) for l = 0 … L - n. Raises ConfigError for n outside 1 … L."""
        blocks = len(self.last) - 1
        if not 1 <= n <= blocks:
            raise ConfigError(f"Distances over {n} blocks were asked for; the model has {blocks}.")
        return (self.all_tokens if all_tokens else self.last).diagonal(n).clone()

    def best_start(self, n: int) -> int:
        """The block l* = argmin d(l, n) from which dropping n changes the last token least."""
        return int(self.angular(n).argmin())

    def block_influence(self) -> Tensor:
        """BI of each block [L]."""
        return 1 - self.cosine.diagonal(1)


def angular_distance(x: Tensor, y: Tensor) -> Tensor:
    """arccos(cos(x, y)) / π along the last dimension, in float64 and in [0, 1].

    By 2 · atan2(‖x̂ - ŷ‖, ‖x̂ + ŷ‖), which is exact near 0 and 1 where arccos is not. Raises
    NonFiniteError for NaN, infinity and vectors of length 0, which have no direction.
    """
    first, second = _directions(x), _directions(y)
    angle = 2 * torch.atan2((first - second).norm(dim=-1), (first + second).norm(dim=-1))
    return angle / math.pi


def layer_distances(
    model: nn.Module,
    batches: Iterable[tuple[Inputs, Tensor | None]],
    *,
    streams: Sequence[str] | None = None,
) -> LayerDistances:
    """Distances between the streams of a model for batches of (inputs, counted tokens or None).

    Counted tokens are bool [batch, positions]; the last token of a sequence is its last counted
    one. `streams` are the hook points in order, L + 1 of them, for a model of no family. Raises
    HookPointError where they are not known or differ in shape, ConfigError without a token, and
    NonFiniteError for streams without a direction.
    """
    names = list(streams) if streams is not None else stream_names(model)
    size = len(names)
    sums = torch.zeros(3, size, size, dtype=torch.float64)
    sequences = tokens = 0
    with Capture(model, names) as capture_one:
        for inputs, counted in batches:
            rows, last = _rows([*capture_one(inputs).values()], names, counted)
            sums[0] += _tables(rows[last])[0]
            sums[1:] += _tables(rows)
            sequences += int(last.sum())
            tokens += len(rows)
    if tokens == 0:
        raise ConfigError("Layer distances need at least one counted token and got none.")
    # Rounding leaves the diagonal near 0; it is 0.
    last_table, all_table = sums[0] / sequences, sums[1] / tokens
    last_table.fill_diagonal_(0)
    all_table.fill_diagonal_(0)
    return LayerDistances(last_table, all_table, sums[2] / tokens, sequences, tokens)


def stream_names(model: nn.Module) -> list[str]:
    """Hook points before each block and after the last. Raises HookPointError without a family."""
    layers = layer_numbers(model)
    if not layers:
        raise HookPointError(
            f"{type(model).__name__} is of no family in the table, so its residual streams are "
            "unknown. Give the hook points in order as streams."
        )
    return [f"resid_pre.{layers[0]}", *(f"resid_post.{layer}" for layer in layers)]


def _rows(
    streams: Sequence[Tensor], names: Sequence[str], counted: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Counted rows [n, places, d], and which of them are the last of their sequence [n]."""
    shape = streams[0].shape
    for name, stream in zip(names, streams, strict=True):
        if stream.dim() != 3 or stream.shape != shape:
            raise HookPointError(
                f"{name} gives {list(stream.shape)} and {names[0]} {list(shape)}. Wanted "
                "[batch, positions, d], the same at every place: angles need one space."
            )
    counted = torch.ones(shape[:2], dtype=torch.bool) if counted is None else counted.cpu()
    if counted.shape != shape[:2]:
        raise ConfigError(f"Counted tokens are {list(counted.shape)}; wanted {list(shape[:2])}.")
    after = counted.flip(1).cumsum(1).flip(1)
    last = counted & (after == 1)
    rows = torch.stack([s[counted.to(s.device)].to(streams[0].device) for s in streams], dim=1)
    return rows, last[counted].to(rows.device)


def _tables(rows: Tensor) -> Tensor:
    """Sums over rows [n, places, d] of angular distance and of cosine [2, places, places]."""
    _, places, d = rows.shape
    sums = torch.zeros(2, places, places, dtype=torch.float64)
    for part in rows.split(max(1, _CHUNK_BYTES // (8 * places * d))):
        if len(part):
            directions = _directions(part)
            cosine = (directions @ directions.transpose(1, 2)).clamp(-1, 1)
            sums[0] += (cosine.arccos() / math.pi).sum(0).cpu()
            sums[1] += cosine.sum(0).cpu()
    return sums


def _directions(x: Tensor) -> Tensor:
    wide = x.double()
    norms = wide.norm(dim=-1, keepdim=True)
    if not bool((torch.isfinite(norms) & (norms > 0)).all()):
        raise NonFiniteError(
            "A vector holds NaN or infinity, or has length 0, so it has no direction. Leave such "
            "positions out of the counted tokens."
        )
    return wide / norms
