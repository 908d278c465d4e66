"""Corrected queries and keys against a softmax that is run again, node by node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bathyscope.attribution.nodes.softmax import key_effects, query_effects, require_softmax
from bathyscope.errors import HookPointError
from bathyscope.models.attention import AttentionCall

PAIRS, LENGTH, HEADS, GROUPS, D = 2, 5, 4, 2, 3


def attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, cap: float | None) -> Tensor:
    """Head outputs [pairs, positions, heads, d], the plain way."""
    k, v = (t.repeat_interleave(HEADS // GROUPS, dim=2) for t in (k, v))
    logits = torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.7
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    pattern = torch.softmax(logits.masked_fill(~allowed, -torch.inf), -1)
    return torch.einsum("bhqk,bkhd->bqhd", pattern, v)


def case(mask: str, cap: float | None, size: float) -> tuple[AttentionCall, Tensor, Tensor, Tensor]:
    """A call, corrupted queries and keys, and the gradient of head outputs."""
    torch.manual_seed(0)
    q, q2 = (size * torch.randn(PAIRS, LENGTH, HEADS, D).double() for _ in range(2))
    k, k2 = (size * torch.randn(PAIRS, LENGTH, GROUPS, D).double() for _ in range(2))
    v = torch.randn(PAIRS, LENGTH, GROUPS, D).double()
    g = torch.randn(PAIRS, LENGTH, HEADS, D).double()
    allowed = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None]
    given: Tensor | None = None
    if mask == "window":
        allowed = given = allowed & ~torch.ones_like(allowed).tril(-3)
    elif mask == "added":
        given = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(
            ~allowed, torch.finfo(torch.float32).min
        )
    out = attention(q, k, v, allowed, cap)
    call = AttentionCall(q, k, v, out, given, scaling=0.7, softcap=cap, causal=True)
    return call, q2, k2, g


def allowed_of(mask: str) -> Tensor:
    allowed = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    return allowed & ~torch.ones_like(allowed).tril(-3) if mask == "window" else allowed


@pytest.mark.parametrize("size", [0.5, 3.0, 12.0])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("mask", ["none", "window", "added"])
def test_effects_equal_those_of_patching_one_query_or_key(
    mask: str, cap: float | None, size: float
) -> None:
    call, q2, k2, g = case(mask, cap, size)
    require_softmax(call, 0)
    allowed = allowed_of(mask)
    queries, keys = query_effects(call, q2, g), key_effects(call, k2, g)
    for position in range(LENGTH):
        for head in range(HEADS):
            q = call.queries.clone()
            q[:, position, head] = q2[:, position, head]
            change = attention(q, call.keys, call.values, allowed, cap) - call.head_out
            torch.testing.assert_close(queries[:, position, head], (change * g).sum((1, 2, 3)))
        for group in range(GROUPS):
            k = call.keys.clone()
            k[:, position, group] = k2[:, position, group]
            change = attention(call.queries, k, call.values, allowed, cap) - call.head_out
            torch.testing.assert_close(
                keys[:, position, group], (change * g).sum((1, 2, 3)), rtol=1e-6, atol=1e-9
            )


def test_blocks_of_queries_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    call, q2, k2, g = case("window", None, 2.0)
    whole = query_effects(call, q2, g), key_effects(call, k2, g)
    monkeypatch.setattr("bathyscope.attribution.nodes.softmax._BLOCK_ELEMENTS", 1)
    parts = query_effects(call, q2, g), key_effects(call, k2, g)
    torch.testing.assert_close(parts, whole)


def test_keys_that_become_overwhelming_stay_finite() -> None:
    call, _, k2, g = case("none", None, 1.0)
    for factor in (1e3, -1e3):
        assert bool(torch.isfinite(key_effects(call, factor * k2, g)).all())
        assert bool(torch.isfinite(query_effects(call, factor * call.queries, g)).all())


def test_attention_that_is_no_softmax_is_refused() -> None:
    call, *_ = case("none", None, 1.0)
    sinks = dataclasses.replace(call, head_out=call.head_out * 0.5)
    with pytest.raises(HookPointError, match=r"layer 3 is not softmax.*sinks"):
        require_softmax(sinks, 3)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_the_pattern_of_a_real_model_is_found(
    kind: str, model_of: Callable[..., Any], pairs: Any
) -> None:
    from bathyscope.attribution.nodes.forward import traced

    for family in ("llama", "mistral", "gpt2"):
        trace = traced(model_of(family, kind), pairs.clean, calls_of=[0, 2])
        assert sorted(trace.calls) == [0, 2]
        for layer, call in trace.calls.items():
            require_softmax(call, layer)
