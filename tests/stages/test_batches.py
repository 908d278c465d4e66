"""Batches of one shape: padding, and pixels as models take them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bathyscope.stages.batches import ImageBatches, TokenBatches, padded
from bathyscope.values import Unit

CPU = torch.device("cpu")


def corpus(count: int) -> Any:
    tokens = torch.arange(count * 3).view(count, 3)
    images = torch.arange(count * 12, dtype=torch.uint8).view(count, 2, 2, 3)
    return SimpleNamespace(
        tokens=lambda start, stop: tokens[start:stop], images=lambda start, stop: images[start:stop]
    )


@pytest.mark.parametrize(("start", "stop", "batches"), [(0, 4, 2), (1, 6, 3), (5, 6, 1)])
def test_tokens_come_in_order_and_the_last_batch_is_padded(
    start: int, stop: int, batches: int
) -> None:
    source = corpus(6)
    found = list(TokenBatches(source, 2, CPU).of(Unit(0, start, stop)))
    assert [tuple(batch.shape) for batch in found] == [(2, 3)] * batches
    flat = torch.cat(found)
    assert torch.equal(flat[: stop - start], source.tokens(start, stop))
    assert not flat[stop - start :].any()


def test_pixels_by_hand() -> None:
    source = corpus(3)
    mean, deviation = [0.1, 0.2, 0.3], [0.5, 0.25, 1.0]
    made = ImageBatches(source, 2, CPU, dtype=torch.float32, mean=mean, deviation=deviation)
    found = list(made.of(Unit(0, 0, 3)))
    assert [tuple(batch.shape) for batch in found] == [(2, 3, 2, 2)] * 2
    # Image 1, row 0, column 1: bytes 15, 16 and 17.
    wanted = [(15 / 255 - 0.1) / 0.5, (16 / 255 - 0.2) / 0.25, (17 / 255 - 0.3) / 1.0]
    assert found[0][1, :, 0, 1].tolist() == pytest.approx(wanted, abs=1e-6)
    half = ImageBatches(source, 2, CPU, dtype=torch.bfloat16, mean=mean, deviation=deviation)
    assert next(half.of(Unit(0, 0, 3))).dtype == torch.bfloat16


def test_padding_keeps_full_batches_as_they_are() -> None:
    full = torch.ones(3, 2)
    assert padded(full, 3) is full
    assert padded(full, 5)[3:].tolist() == [[0.0, 0.0]] * 2
