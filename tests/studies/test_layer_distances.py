"""Angles between streams: known ones, and those of models against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bathyscope.errors import ConfigError, HookPointError, NonFiniteError
from bathyscope.models.capture import capture
from bathyscope.studies.layer_distances import angular_distance, layer_distances, stream_names
from study_models import gpt2, llama, token_batches


def test_known_angles() -> None:
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    assert angular_distance(x, x).tolist() == [0.0] * 20
    assert angular_distance(x, -x).tolist() == [1.0] * 20
    assert angular_distance(x, 3 * x).max() < 1e-7
    turned = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-5.0, 0.0], [1.0, 1e-6]])
    found = angular_distance(torch.tensor([1.0, 0.0]).expand(5, 2), turned)
    expected = torch.tensor([0, 0.5, 0.25, 1, 1e-6 / math.pi], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-15)


def test_tables_are_the_plain_averages() -> None:
    model, batches = llama(), token_batches()
    found = layer_distances(model, [(b, None) for b in batches])
    names = stream_names(model)
    assert names == ["resid_pre.0", "resid_post.0", "resid_post.1", "resid_post.2"]
    seen = [capture(model, names, {"input_ids": b}) for b in batches]
    assert (found.sequences, found.tokens) == (6, 72)
    for start in range(4):
        for n in range(1, 4 - start):
            x, y = (torch.cat([s[names[p]] for s in seen]) for p in (start, start + n))
            last = angular_distance(x[:, -1], y[:, -1]).mean()
            everywhere = angular_distance(x, y).mean()
            torch.testing.assert_close(found.angular(n)[start], last)
            torch.testing.assert_close(found.angular(n, all_tokens=True)[start], everywhere)
    x, y = (torch.cat([s[name] for s in seen]).double() for name in names[1:3])
    influence = 1 - torch.cosine_similarity(x, y, dim=-1).mean()
    torch.testing.assert_close(found.block_influence()[1], influence)
    assert found.best_start(1) == int(found.angular(1).argmin())
    assert len(found.block_influence()) == 3


def test_only_counted_tokens_count() -> None:
    model, batch = gpt2(), token_batches(1)[0]
    counted = torch.ones(2, 12, dtype=torch.bool)
    counted[0, 7:] = False
    counted[1] = False
    some = layer_distances(model, [(batch, counted)])
    # Later tokens change nothing of earlier ones in a decoder.
    alone = layer_distances(model, [(batch[:1, :7], None)])
    assert (some.sequences, some.tokens) == (1, 7)
    torch.testing.assert_close(some.last, alone.last, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(some.cosine, alone.cosine, rtol=1e-4, atol=1e-6)


class Stream(nn.Module):
    """Four places with known angles: a block that adds nothing, a quarter turn, a half turn."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.ModuleList(nn.Identity() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.stack([-x[..., 1], x[..., 0]], dim=-1)
        for place, value in zip(self.places, (x, x, turned, -turned), strict=True):
            place(value)
        return x


def test_a_model_of_known_angles() -> None:
    streams = [f"places.{n}" for n in range(4)]
    batch = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    found = layer_distances(Stream(), [(batch, None)], streams=streams)
    expected = torch.tensor([0, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found.angular(1), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.block_influence(), 2 * expected, rtol=0, atol=1e-7)
    assert found.best_start(1) == 0
    assert found.last.diagonal().tolist() == [0.0] * 4


def test_what_is_refused() -> None:
    batch = torch.ones(1, 5, 2)
    streams = [f"places.{n}" for n in range(4)]
    with pytest.raises(HookPointError, match="Give the hook points in order"):
        layer_distances(Stream(), [(batch, None)])
    with pytest.raises(ConfigError, match="at least one counted token"):
        layer_distances(Stream(), [(batch, torch.zeros(1, 5, dtype=torch.bool))], streams=streams)
    with pytest.raises(ConfigError, match=r"Counted tokens are \[5\]; wanted \[1, 5\]"):
        layer_distances(Stream(), [(batch, torch.ones(5, dtype=torch.bool))], streams=streams)
    with pytest.raises(NonFiniteError, match="has length 0"):
        layer_distances(Stream(), [(batch * 0, None)], streams=streams)
    with pytest.raises(NonFiniteError, match="holds NaN"):
        angular_distance(torch.tensor([float("nan"), 1.0]), torch.ones(2))
    with pytest.raises(HookPointError, match=r"\[batch, positions, d\], the same at every place"):
        layer_distances(Stream(), [(torch.ones(1, 2, 5, 2), None)], streams=streams)
    found = layer_distances(Stream(), [(batch, None)], streams=streams)
    for n in (0, 4):
        with pytest.raises(ConfigError, match="the model has 3"):
            found.angular(n)
