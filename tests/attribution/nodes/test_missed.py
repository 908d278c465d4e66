"""Bounds on missed nodes: the counting by hand, and subsets where effects add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.attribution.nodes import (
    Pairs,
    Positions,
    attribution_patching,
    contrast,
    every_layer,
    exact_patching,
    missed_nodes,
    subset_bound,
)
from bathyscope.attribution.nodes.missed import most_hits
from bathyscope.errors import ConfigError


def test_most_hits_by_hand() -> None:
    # Of 10 nodes 5 are drawn and none is found. With D hits among 10 the chance to miss all is
    # C(10-D, 5) / C(10, 5): 0.5, 0.222, 0.083, 0.024 for D = 1 to 4.
    assert most_hits(10, 5, 0, 0.95) == 3
    assert most_hits(10, 5, 0, 0.90) == 2
    assert most_hits(10, 5, 0, 0.40) == 0
    # All are drawn: nothing is left to guess.
    assert most_hits(10, 10, 2, 0.99) == 2
    assert most_hits(0, 0, 0, 0.95) == 0


def test_the_bound_holds_and_verifying_everything_leaves_nothing(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    problem = contrast(
        model_of("llama"), pairs, "logit_difference", every_layer(model_of("llama"), "heads")
    )
    scores, exact = attribution_patching(problem), exact_patching(problem).flat().abs()
    threshold = float(exact.sort().values[-12])
    found = missed_nodes(scores, verified=6, sample=15, threshold=threshold, seed=1)
    rest = scores.flat().abs().sort(descending=True, stable=True).indices[6:]
    real = int((exact[rest] >= threshold).sum())
    assert (found.unverified, found.sampled) == (30, 15)
    assert found.found <= real <= found.at_most
    everything = missed_nodes(scores, verified=36, sample=5, threshold=threshold)
    assert (everything.unverified, everything.at_most) == (0, 0)
    whole = missed_nodes(scores, verified=6, sample=30, threshold=threshold)
    assert whole.at_most == whole.found == real


class Sum(nn.Module):
    """Adds positions up, so that effects add up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6).double(), nn.Linear(6, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).sum(1, keepdim=True))  # type: ignore[no-any-return]


def test_subsets_bound_every_effect_where_effects_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 12, 4).double(), torch.randn(2, 12, 4).double()
    pairs = Pairs(x, y, torch.ones(2, 12, dtype=torch.bool), torch.tensor([0, 0]))
    problem = contrast(Sum(), pairs, lambda out: out[:, 0, 0], [Positions(place="first")])
    scores, exact = attribution_patching(problem), exact_patching(problem).flat()
    found = subset_bound(scores, verified=4, subsets=200)
    assert len(found.chosen) == 20
    true = exact[found.chosen]
    assert bool((found.bound >= true.abs()).all())
    assert float((found.effect - true).abs().mean()) < 0.5 * float(true.abs().mean())
    monkeypatch.setattr("bathyscope.attribution.nodes.missed._NODES", 3)
    in_parts = subset_bound(scores, verified=4, subsets=200)
    torch.testing.assert_close(in_parts.bound, found.bound)


def test_bad_samples_are_refused(model_of: Callable[..., Any], pairs: Pairs) -> None:
    model = model_of("llama")
    problem = contrast(model, pairs, "logit_difference", [Positions(place="mlp_out.0")])
    scores = attribution_patching(problem)
    with pytest.raises(ConfigError, match=r"confidence 1\.5"):
        missed_nodes(scores, verified=0, sample=2, threshold=1.0, confidence=1.5)
    with pytest.raises(ConfigError, match="subsets is 4"):
        subset_bound(scores, verified=0, subsets=4)
