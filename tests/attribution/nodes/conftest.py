"""Tiny decoders of every family in float64, and pairs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bathyscope.attribution.nodes import Pairs
from double_decoders import make_model


@pytest.fixture(scope="session")
def model_of() -> Callable[..., Any]:
    """A function that gives the random decoder of a family; nobody changes it."""
    return make_model


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """Three pairs of eight tokens that differ in one."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(3, 64, (3, 8), generator=generator)
    corrupted = clean.clone()
    corrupted[:, 3] = (clean[:, 3] + 7) % 61 + 3
    return Pairs.of_tokens(clean.tolist(), corrupted.tolist(), answers=[5, 6, 7], wrong=[8, 9, 10])
