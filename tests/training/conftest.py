"""Rows from planted sparse directions, and dictionaries that start on them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bathyscope.dictionaries.dictionary import Dictionary, topk_autoencoder
from bathyscope.training.initial import initialise

Rows = Callable[[int, int], Tensor]
WIDTH, TRUE_DIRECTIONS, ACTIVE = 16, 32, 3


@pytest.fixture(scope="session")
def directions() -> Tensor:
    """Planted directions [32, 16] of unit norm."""
    generator = torch.Generator().manual_seed(7)
    return normalize(torch.randn(TRUE_DIRECTIONS, WIDTH, generator=generator), dim=1)


@pytest.fixture(scope="session")
def planted(directions: Tensor) -> Rows:
    """`planted(num, seed)`: rows that are each a sum of three planted directions plus a mean."""

    def rows(num: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.rand(num, TRUE_DIRECTIONS, generator=generator).topk(ACTIVE).indices
        sizes = 0.5 + torch.rand(num, ACTIVE, generator=generator)
        noise = 0.01 * torch.randn(num, WIDTH, generator=generator)
        return (sizes[..., None] * directions[chosen]).sum(1) + 0.3 + noise

    return rows


@pytest.fixture
def fresh(planted: Rows) -> Callable[..., Dictionary]:
    """`fresh(num_latents=…, k=…, seed=…)`: a dictionary before its first step."""

    def make(num_latents: int = 64, k: int = ACTIVE, seed: int = 0) -> Dictionary:
        dictionary = topk_autoencoder(
            d_in=WIDTH, num_latents=num_latents, k=k, hook_point="resid_post.0",
            dtype=torch.float32,
        )  # fmt: skip
        rows = planted(2048, 0)
        initialise(dictionary, x=rows, y=rows, mean=rows.mean(0), seed=seed)
        return dictionary

    return make
