"""Bounds against exact laws: all subsets of small sets, and a recursion over larger ones."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import ive
from scipy.stats import hypergeom

from bathyscope.features.drift import tails
from bathyscope.features.drift.tails import class_tail, hypergeometric_tail, moment_tail

SCORES = np.arange(13)


def exact_tails(scores: np.ndarray, drawn: int) -> np.ndarray:
    """P(sum of a random subset of `drawn` scores ≥ s) for each s, by counting subsets."""
    table = np.zeros((drawn + 1, int(scores.sum()) + 1))
    table[0, 0] = 1
    for score in scores:
        # The right side is worked out before it is added, so each score is used once.
        table[1:, score:] += table[:-1, : table.shape[1] - score].copy()
    return np.cumsum(table[drawn][::-1])[::-1] / table[drawn].sum()


def subset_with(scores: np.ndarray, drawn: int, wanted: int) -> np.ndarray:
    """A subset of `drawn` scores with a sum of `wanted`, or near, by swaps from the largest."""
    order = np.argsort(-scores, kind="stable")
    inside, outside = list(order[:drawn]), list(order[drawn:])
    total = int(scores[inside].sum())
    while total > wanted:
        excess = total - wanted
        drop = scores[inside][:, None] - scores[outside][None, :]
        drop = np.where((drop > 0) & (drop <= excess), drop, -1)
        a, b = np.unravel_index(int(drop.argmax()), drop.shape)
        if drop[a, b] < 0:
            break
        total -= int(drop[a, b])
        inside[a], outside[b] = outside[b], inside[a]
    return np.array(inside)


def moment_bound(scores: np.ndarray, drawn: int, total_of_drawn: float) -> float:
    mean = scores.mean()
    return float(
        moment_tail(
            np.array([total_of_drawn - drawn * mean]),
            np.array([drawn]),
            np.array([len(scores)]),
            np.array([((scores - mean) ** 2).sum()]),
            np.array([mean - scores.min()]),
            np.array([scores.max() - mean]),
        )[0]
    )


def class_bound(scores: np.ndarray, inside: np.ndarray) -> float:
    night = np.bincount(scores[inside], minlength=13)
    both = np.bincount(scores, minlength=13)
    return float(class_tail(night[None], (both - night)[None], SCORES)[0])


def sparse_scores(documents: int, share: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(documents) < share, rng.integers(1, 8, documents), 0)


@pytest.mark.parametrize("drawn", [15, 60, 110])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_bounds_hold_and_are_near_in_the_far_tail(drawn, share):
    scores = sparse_scores(140, share, seed=round(10 * share))
    exact = exact_tails(scores, drawn)
    for level in (1e-2, 1e-4, 1e-7, 1e-10, 1e-13):
        wanted = int(np.argmax(exact < level))
        if exact[wanted] <= 0 or wanted == 0:
            continue
        inside = subset_with(scores, drawn, wanted)
        reached = int(scores[inside].sum())
        truth = math.log(exact[reached])
        of_classes = class_bound(scores, inside)
        of_moments = moment_bound(scores, drawn, float(reached))

        assert of_classes >= truth
        assert of_moments >= truth
        # A factor of the normal deviate remains: at most 3.5 of 23 at a level of 1e-10.
        assert of_classes <= truth + 3.5


def test_every_subset_of_a_small_set_keeps_its_size():
    # For each threshold the share of subsets whose bound is below it is at most the threshold.
    scores = np.array([0, 0, 0, 0, 1, 1, 2, 4, 4, 5, 9, 12])
    bounds = {}
    for name in ("classes", "moments", "documents"):
        bounds[name] = []
    for subset in itertools.combinations(range(12), 4):
        inside = np.array(subset)
        bounds["classes"].append(class_bound(scores, inside))
        bounds["moments"].append(moment_bound(scores, 4, float(scores[inside].sum())))
        hits = int((scores[inside] > 0).sum())
        bounds["documents"].append(float(hypergeometric_tail(hits, 8, 4, 12)))
    for found in bounds.values():
        p = np.exp(np.sort(found))
        assert (np.searchsorted(p, p, side="right") / len(p) <= p + 1e-9).all()
        assert p[0] < 0.2


def test_the_hypergeometric_tail_is_exact_far_out():
    hits, all_hits, drawn, total = np.meshgrid([9, 40, 90], [9, 100, 300], [500, 1000], [3000])
    possible = hits <= all_hits
    found = hypergeometric_tail(hits, all_hits, drawn, total)[possible]
    exact = hypergeom.logsf(hits - 1, total, all_hits, drawn)[possible]

    assert (found >= exact - 1e-9).all()
    far = exact < math.log(1e-4)
    assert far.sum() >= 6
    assert found[far] == pytest.approx(exact[far], abs=0.1)


def test_a_sum_below_its_expectation_says_nothing():
    night, reference = np.array([[9.0, 1.0]]), np.array([[5.0, 5.0]])
    assert class_tail(night, reference, np.array([0, 1])).tolist() == [0.0]
    assert hypergeometric_tail(1, 6, 10, 20) == 0.0
    nothing = np.array([0.0])
    assert moment_tail(np.array([-3.0]), 5, 10, 20, 1, 1) == nothing
    # Equal scores, and sides without a document.
    assert moment_tail(np.array([0.0]), 5, 10, nothing, nothing, nothing) == nothing
    assert moment_tail(np.array([1.0]), nothing, 10, 20, 1, 1) == nothing
    assert class_tail(np.array([[0.0, 0.0]]), reference, np.array([0, 1])).tolist() == [0.0]


def test_all_of_what_there_is_on_one_side():
    # All 20 documents with a firing are the night's: 1 / C(100, 20) subsets of those that matter.
    night, reference = np.array([[30.0, 20.0]]), np.array([[50.0, 0.0]])
    exact = hypergeom.logsf(19, 100, 20, 50)
    assert float(hypergeometric_tail(20, 20, 50, 100)) == pytest.approx(exact)
    found = float(class_tail(night, reference, np.array([0, 1]))[0])
    assert exact <= found < exact + 3


def test_the_bound_of_a_probability_has_the_constant_of_its_paper():
    x = np.linspace(0.01, 50, 100_000)
    assert (np.sqrt(x) * ive(0, x)).max() == pytest.approx(tails._MODE, abs=1e-5)
    assert (np.sqrt(x) * ive(0, x)).max() <= tails._MODE


def test_many_documents_lose_no_digits():
    # A tenth of a hundred million documents, a latent in 400 of them, 110 where 40 are expected.
    exact = hypergeom.logsf(109, 10**6, 400, 10**5)
    found = float(hypergeometric_tail(110, 400, 10.0**7, 10.0**8))
    assert found == pytest.approx(exact, abs=0.1)
