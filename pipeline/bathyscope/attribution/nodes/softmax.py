"""What a patched query or key does to a head's output, through the softmax and not its slope.

A is the pattern, z = A V a head's output, g = ∂m/∂z. One query q'_t gives the row A'_t of a new
softmax, and the effect g_t · (A'_t - A_t) V. One key k'_s changes one logit of every row t by
δ_ts = l'_ts - l_ts, and a softmax with one changed logit has a closed form:

    z'_t - z_t = w_ts (v_s - z_t),     w = a (e^δ - 1) / (1 + a (e^δ - 1)),     a = A_ts

so keys cost no more than queries. Under grouped queries a key moves all heads of its group. Where a
is near 1, v_s - z_t is a small difference; a row has one such key at most, its largest, and for
that one the softmax over the others is taken apart:

    z'_t - z_t = (a' - a) (v_s - u_t),     u_t = Σ_{j≠s} A_tj v_j / (1 - a)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.errors import HookPointError
from bathyscope.models.attention import AttentionCall

_BLOCK_ELEMENTS = 1 << 22
"""Pattern entries that are held at a time, in some five float64 copies: 170 MB."""
_AGREE = 1e-2


class _Block(NamedTuple):
    """Some queries of one group of heads: [pairs, heads of the group, queries, …]."""

    heads: slice
    group: int
    queries: slice
    logits: Tensor
    """[pairs, heads, queries, keys]; -inf where a query must not look."""
    allowed: Tensor
    """bool, broadcasts to the logits."""


def query_effects(call: AttentionCall, queries: Tensor, gradient: Tensor) -> Tensor:
    """<g, z(q') - z(q)> for each query alone, float64 [pairs, positions, heads].

    `queries` are the corrupted ones, `gradient` ∂m/∂(head outputs), both [pairs, positions, heads,
    numbers of a head].
    """
    effects = queries.new_zeros(queries.shape[:3], dtype=torch.float64)
    for old, new in zip(_blocks(call, call.queries), _blocks(call, queries), strict=True):
        values = _group(call.values, old.group)
        change = (_softmax(new.logits) - _softmax(old.logits)) @ values
        g = _heads(gradient, old.heads)[:, :, old.queries]
        effects[:, old.queries, old.heads] = (g * change).sum(-1).transpose(1, 2)
    return effects


def key_effects(call: AttentionCall, keys: Tensor, gradient: Tensor) -> Tensor:
    """<g, z(k') - z(k)> for each key alone, over all heads that read it and all later queries.

    float64 [pairs, positions, groups]; `keys` are the corrupted ones.
    """
    effects = keys.new_zeros(keys.shape[:3], dtype=torch.float64)
    changed = _blocks(call, call.queries, keys)
    for old, new in zip(_blocks(call, call.queries), changed, strict=True):
        pattern, values = _softmax(old.logits), _group(call.values, old.group)
        delta = (new.logits - old.logits).masked_fill(~old.allowed, 0)
        g = _heads(gradient, old.heads)[:, :, old.queries]
        reads = g @ values.transpose(-1, -2)
        along = reads - (g * (pattern @ values)).sum(-1, keepdim=True)
        products = _weight(old.logits, pattern, delta) * along
        largest = old.logits.argmax(-1, keepdim=True)
        effect = _largest(old.logits, delta, largest, values, g, reads)
        effects[:, :, old.group] += products.scatter(-1, largest, effect).sum((1, 2))
    return effects


def require_softmax(call: AttentionCall, layer: int) -> None:
    """Raise HookPointError where softmax(q k) v is not what the attention returned."""
    for block in _blocks(call, call.queries):
        z = _softmax(block.logits) @ _group(call.values, block.group)
        out = _heads(call.head_out, block.heads)[:, :, block.queries]
        seen = block.allowed.any(-1, keepdim=True).expand_as(out)
        apart = float(((z - out).abs() * seen).max() / out.abs().max().clamp_min(1e-30))
        if not apart < _AGREE:
            raise HookPointError(
                f"The attention of layer {layer} is not softmax(q k) v: outputs differ by "
                f"{apart:.1e} of their largest, so queries and keys cannot be corrected. Does it "
                "have sinks or position biases? Use attribution_patching."
            )


def _weight(logits: Tensor, pattern: Tensor, delta: Tensor) -> Tensor:
    """w, without overflow: for δ > 0 as a sigmoid of log a + log(e^δ - 1)."""
    up = delta.clamp_min(1e-300)
    log_a = torch.log_softmax(logits, -1)
    rising = torch.sigmoid(log_a + up + torch.log(-torch.expm1(-up)))
    shrink = pattern * torch.expm1(delta.clamp_max(0))
    falling = shrink / (1 + shrink).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(delta > 0, rising, falling).nan_to_num(0.0)


def _largest(
    logits: Tensor, delta: Tensor, largest: Tensor, values: Tensor, g: Tensor, reads: Tensor
) -> Tensor:
    """The effect of each row's largest key, [pairs, heads, queries, 1]."""
    others = logits.scatter(-1, largest, -torch.inf)
    rest = torch.logsumexp(others, -1, keepdim=True)
    old = logits.gather(-1, largest)
    new = old + delta.gather(-1, largest)
    # a' - a as a difference of what is left of 1, since both may be near 1.
    moved = torch.sigmoid(rest - old) - torch.sigmoid(rest - new)
    without = (g * (_softmax(others) @ values)).sum(-1, keepdim=True)
    return (moved * (reads.gather(-1, largest) - without)).nan_to_num(0.0)


def _softmax(logits: Tensor) -> Tensor:
    # A row of padding that may look nowhere is NaN, and stands for nothing.
    return torch.softmax(logits, -1).nan_to_num(0.0)


def _blocks(call: AttentionCall, queries: Tensor, keys: Tensor | None = None) -> Iterator[_Block]:
    keys = call.keys if keys is None else keys
    pairs, length, num_heads = queries.shape[:3]
    per_group = num_heads // keys.shape[2]
    step = max(1, _BLOCK_ELEMENTS // (pairs * per_group * length))
    for group in range(keys.shape[2]):
        heads = slice(group * per_group, (group + 1) * per_group)
        k = _group(keys, group).transpose(-1, -2)
        q = _heads(queries, heads)
        for first in range(0, length, step):
            rows = slice(first, min(first + step, length))
            logits = q[:, :, rows] @ k * call.scaling
            if call.softcap is not None:
                logits = torch.tanh(logits / call.softcap) * call.softcap
            added = _added(call, heads, rows, logits)
            yield _Block(heads, group, rows, logits + added, torch.isfinite(added))


def _added(call: AttentionCall, heads: slice, rows: slice, logits: Tensor) -> Tensor:
    """What the mask adds to logits [pairs, heads, queries, keys]: -inf where it forbids."""
    mask = call.mask
    if mask is None:
        length = logits.shape[-1]
        numbers = torch.arange(length, device=logits.device)
        later = numbers[None, :] > numbers[rows, None]
        zeros = logits.new_zeros(1, 1, *later.shape)
        return zeros.masked_fill(later, -torch.inf) if call.causal else zeros
    if mask.ndim != 4:
        raise HookPointError(
            f"The attention got a mask {list(mask.shape)}; queries and keys can be corrected where "
            "it is [pairs, heads, queries, keys]. Load the model with attention='sdpa' or 'eager'."
        )
    mask = mask[:, heads if mask.shape[1] > 1 else slice(None), rows, : logits.shape[-1]]
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    # Masks that are added forbid with the most negative number of their dtype.
    added = mask.double()
    return added.masked_fill(added <= torch.finfo(mask.dtype).min / 2, -torch.inf)


def _heads(tensor: Tensor, heads: slice) -> Tensor:
    """[pairs, positions, heads, n] -> [pairs, some heads, positions, n], float64."""
    return tensor[:, :, heads].detach().transpose(1, 2).double()


def _group(tensor: Tensor, group: int) -> Tensor:
    return _heads(tensor, slice(group, group + 1))
