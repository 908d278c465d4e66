"""Which path runs is said once, with the reason."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from bathyscope_kernels import topk_encode
from bathyscope_kernels.cpu.library import library
from bathyscope_kernels.dispatch import say_once, use_dense


def messages(caplog: pytest.LogCaptureFixture, W: torch.Tensor, x: torch.Tensor) -> list[str]:
    say_once.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="bathyscope_kernels"):
        for _ in range(3):
            topk_encode(x, W, torch.zeros(len(W), dtype=W.dtype), 3)
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("topk_encode")]


def test_the_path_is_said_once_with_the_reason(
    oracle: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    if library() is None:
        pytest.skip("no compiled library: no C++ compiler here")
    x, W = oracle.normal(5, 8, seed=0), oracle.normal(50, 8, seed=1)
    (said,) = messages(caplog, W, x)
    assert said.startswith("topk_encode: compiled C++, float32 scores (")
    (said,) = messages(caplog, W.bfloat16(), x)
    assert "torch.topk (W_enc is torch.bfloat16, the compiled path wants torch.float32)" in said
    first, second = messages(caplog, torch.ones(500, 8), torch.ones(5, 8))
    assert "compiled C++" in first
    assert "torch for rows with ties" in second


def test_gathering_or_matmul_by_latents_per_active_one() -> None:
    assert use_dense(100, 32)
    assert not use_dense(1000, 32)
