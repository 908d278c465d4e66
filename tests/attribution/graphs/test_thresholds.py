import math

import numpy as np
import pytest

from bathyscope.attribution.graphs.edge_mask import EdgeMask
from bathyscope.attribution.graphs.thresholds import share_threshold
from dense_graphs import threshold


def found(values, share, **settings):
    blocks = np.array_split(np.array(values, dtype=np.float64), 3)
    return share_threshold(lambda: blocks, share, **settings)


def test_by_hand():
    values = [0.5, 0, 4, 1, 2, 0.5]
    # 4 of 8 is half; 6 of 8 three quarters; 7, then both halves.
    wanted = {0: 4, 0.5: 4, 0.51: 2, 0.75: 2, 0.8: 1, 0.9: 0.5, 1: 0.5}
    assert {share: found(values, share) for share in wanted} == wanted


def test_nothing_positive_has_an_infinite_threshold():
    assert found([0.0, 0.0], 0.5) == math.inf
    assert share_threshold(list, 1.0) == math.inf


def test_share_one_is_the_least_positive_number_even_where_sums_round():
    assert found([1.0, 1e-30, 0.0, 5e-324], 1.0) == 5e-324


@pytest.mark.parametrize("sort_at_most", [0, 3, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_random_numbers_as_sorting_would(seed, sort_at_most):
    rng = np.random.default_rng(seed)
    values = np.exp(3 * rng.standard_normal(2000)) * (rng.random(2000) < 0.8)
    values[::7] = values[3]  # ties
    for share in (0.1, 0.5, 0.9, 0.98, 0.9999):
        assert found(values, share, sort_at_most=sort_at_most) == threshold(values, share)


def test_numbers_that_differ_in_their_last_bit():
    low = np.nextafter(1.0, 0)
    assert found([1.0] * 3 + [low] * 3, 0.5, sort_at_most=0) == 1.0
    assert found([1.0] * 3 + [low] * 3, 0.51, sort_at_most=0) == low


@pytest.mark.parametrize("num_edges", [0, 1, 8, 17, 1000])
def test_edges_are_kept_by_bits(num_edges):
    chosen = np.flatnonzero(np.random.default_rng(num_edges).random(num_edges) < 0.4)
    mask = EdgeMask(num_edges)
    for part in np.array_split(chosen, 4):
        mask.keep(part)

    assert mask.positions().tolist() == chosen.tolist()
    assert mask.count == len(chosen)
    wanted = np.isin(np.arange(num_edges), chosen)
    assert mask.at(np.arange(num_edges)).tolist() == wanted.tolist()
