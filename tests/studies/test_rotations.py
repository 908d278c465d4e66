"""Rotations: lengths stay, or the covariance does; the draw is an even one."""

from __future__ import annotations

import pytest
import torch

from bathyscope.errors import NonFiniteError
from bathyscope.studies.rotations import covariance_rotation, random_rotation


def test_a_rotation_keeps_lengths_and_is_its_own_seed() -> None:
    first = random_rotation(7, seed=0)
    eye = torch.eye(7).double()
    torch.testing.assert_close(first.forward @ first.forward.T, eye)
    torch.testing.assert_close(first.forward @ first.inverse, eye)
    torch.testing.assert_close(first.forward, random_rotation(7, seed=0).forward)
    assert not torch.allclose(first.forward, random_rotation(7, seed=1).forward)


def test_rotations_are_drawn_evenly() -> None:
    # Of an even draw the trace has mean 0 and variance 1; QR without signs has a mean below 0.
    traces = torch.stack([random_rotation(3, seed=s).forward.trace() for s in range(2000)])
    assert float(traces.mean()) == pytest.approx(0, abs=0.08)
    assert float(traces.var()) == pytest.approx(1, abs=0.1)


def test_the_covariance_stays_and_directions_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator).double()
    covariance = root @ root.T
    turn = covariance_rotation(covariance, seed=3)
    torch.testing.assert_close(turn.forward @ covariance @ turn.forward.T, covariance)
    torch.testing.assert_close(turn.forward @ turn.inverse, torch.eye(6).double())
    moved = torch.nn.functional.cosine_similarity(turn.forward @ root, root, dim=0)
    assert float(moved.abs().mean()) < 0.9


def test_directions_without_variance_do_not_grow_without_bound() -> None:
    turn = covariance_rotation(torch.diag(torch.tensor([1.0, 1.0, 0.0])), seed=0)
    assert bool(torch.isfinite(turn.forward).all())
    assert float(turn.forward.abs().max()) < 2e4


def test_bad_covariances_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted a square matrix"):
        covariance_rotation(torch.ones(2, 3), seed=0)
    with pytest.raises(ValueError, match="no variance to keep"):
        covariance_rotation(torch.zeros(2, 2), seed=0)
    with pytest.raises(NonFiniteError):
        covariance_rotation(torch.full((2, 2), torch.nan), seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        random_rotation(0, seed=0)
