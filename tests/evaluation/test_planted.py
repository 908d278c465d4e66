"""Planted rows have the statistics that they are said to have."""

from __future__ import annotations

import pytest
import torch

from bathyscope.evaluation.planted import Planted

NUM = 60_000


@pytest.fixture(scope="module")
def source() -> Planted:
    return Planted(16, l0=4.0)


def test_sizes_and_the_same_seed(source: Planted) -> None:
    found = source.rows(5, seed=1)
    assert (found.x.shape, found.active.shape) == ((5, 16), (5, 64))
    again = Planted(16, l0=4.0).rows(5, seed=1)
    assert torch.equal(found.x, again.x)
    assert not torch.equal(found.x, source.rows(5, seed=2).x)


def test_use_follows_zipf_and_l0(source: Planted) -> None:
    active = source.rows(NUM, seed=1).active.float()
    free = torch.ones(64, dtype=torch.bool)
    free[source.children] = False
    torch.testing.assert_close(active.mean(0)[free], source.density[free], rtol=0.1, atol=2e-3)
    assert float(source.density[0] / source.density[63]) == pytest.approx(64**0.7, rel=1e-4)
    assert 3.0 < float(active.sum(1).mean()) <= 4.1


def test_children_are_never_without_their_parents(source: Planted) -> None:
    active = source.rows(NUM, seed=1).active
    assert not (active[:, source.children] & ~active[:, source.parents]).any()
    assert active[:, source.children].any(0).float().mean() > 0.9


def test_friends_meet_more_often_than_by_chance(source: Planted) -> None:
    active = source.rows(NUM, seed=1).active.float()
    related = {*source.children.tolist(), *source.parents.tolist()}
    apart = [p for p in source.friends.tolist() if not related & set(p)]
    assert apart
    for first, second in apart:
        together = float((active[:, first] * active[:, second]).mean())
        assert together > 1.5 * float(active[:, first].mean() * active[:, second].mean())


def test_rows_are_what_they_are_made_of(source: Planted) -> None:
    quiet = Planted(16, l0=4.0, noise=0.0)
    found = quiet.rows(2000, seed=3)
    none = ~found.active.any(1)
    assert none.any()
    torch.testing.assert_close(found.x[none], quiet.mean.expand(int(none.sum()), 16))
    one = found.active.sum(1) == 1
    parts = found.x[one] - quiet.mean
    directions = quiet.directions[found.active[one].int().argmax(1)]
    sizes = (parts * directions).sum(1)
    torch.testing.assert_close(parts, sizes[:, None] * directions, rtol=1e-4, atol=1e-5)
    assert float(sizes.median()) == pytest.approx(1.0, rel=0.15)
    assert float(sizes.max() / sizes.median()) > 3, "heavy tails"
