import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit

from bathyscope.errors import FitError
from bathyscope.studies.probes import (
    RIDGE,
    area_under_curve,
    balanced_accuracy,
    fit_probe,
    most_separate,
    right_of_classes,
    separations,
    token_scores,
)


@pytest.fixture
def draw() -> np.random.Generator:
    """The same numbers for each test, whatever others have run before it."""
    return np.random.default_rng(0)


def test_separation_by_hand() -> None:
    x = np.array([[0.0, 5.0], [2.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    label = np.array([[False], [False], [True], [True]])
    # Means 1 and 4, both variances 1; the second column does not vary.
    assert separations(x, label) == pytest.approx(np.array([[3.0, 0.0]]))


def test_separation_of_sparse_rows_is_that_of_dense_ones(draw: np.random.Generator) -> None:
    x = draw.normal(size=(200, 12)) * (draw.random((200, 12)) < 0.3)
    labels = draw.random((200, 3)) < 0.4
    assert separations(csr_array(x), labels) == pytest.approx(separations(x, labels))


def test_the_column_that_knows_the_label_comes_first(draw: np.random.Generator) -> None:
    labels = draw.random((500, 2)) < 0.3
    x = draw.normal(size=(500, 20)) * 10
    x[:, 7] = labels[:, 0] + 0.1 * draw.normal(size=500)
    x[:, 3] = -1000.0 * labels[:, 1] + 100 * draw.normal(size=500)
    assert most_separate(x, labels, 2)[:, 0].tolist() == [7, 3]
    assert most_separate(x, labels, 99).shape == (2, 20)


def test_a_probe_is_the_minimum_of_its_loss(draw: np.random.Generator) -> None:
    x = draw.normal(size=(300, 4)) * [1, 5, 0.1, 2] + 3
    label = draw.random(300) < expit((x - 3) @ [1, -0.4, 6, 0] + 1)
    probe = fit_probe(x, label)
    z = (x - x.mean(0)) / x.std(0)
    signs, costs = np.where(label, 1, -1), np.where(label, 0.5 / label.sum(), 0.5 / (~label).sum())

    def loss(theta: np.ndarray) -> float:
        margins = signs * (z @ theta[:-1] + theta[-1])
        return float(costs @ np.logaddexp(0, -margins) + RIDGE / 2 * theta[:-1] @ theta[:-1])

    best = minimize(loss, np.zeros(5), tol=1e-10).x
    assert np.append(probe.weights, probe.bias) == pytest.approx(best, abs=1e-4)


def test_separable_classes_have_a_finite_probe_that_is_right() -> None:
    label = np.arange(40) % 3 == 0
    x = np.column_stack([np.where(label, 2.0, -1.0), np.full(40, 7.0)])
    probe = fit_probe(x, label)
    assert np.isfinite(probe.weights).all()
    assert ((probe.scores(x) > 0) == label).all()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_labels_that_are_unrelated_give_one_half(share: float, draw: np.random.Generator) -> None:
    x, y = draw.normal(size=(4000, 5)), draw.normal(size=(40_000, 5))
    train, test = draw.random(4000) < share, draw.random(40_000) < share
    scores = fit_probe(x, train).scores(y)
    # Of 800 rows of a class a share has a standard error of 0.018, and both together 0.009.
    sums = right_of_classes(scores, test, np.zeros(40_000, dtype=np.int64))
    assert balanced_accuracy(sums)[0] == pytest.approx(0.5, abs=0.06)
    assert area_under_curve(scores, test) == pytest.approx(0.5, abs=0.08)


def test_balanced_accuracy_by_hand() -> None:
    scores = np.array([1.0, -1.0, 2.0, 0.0, -1.0])
    label = np.array([True, True, False, False, False])
    sums = right_of_classes(scores, label, np.array([0, 1, 0, 1, 1]))
    # Of class 1 one of two is right; of class 0 one, and one that is undecided, of three.
    assert sums.tolist() == [[1, 1, 1, 0], [1, 0, 2, 1.5]]
    assert balanced_accuracy(sums.sum(0, keepdims=True)).tolist() == [0.5]
    assert np.isnan(balanced_accuracy(np.array([[0.0, 0, 3, 2]]))).all()


def test_area_under_the_curve_counts_pairs() -> None:
    scores = np.array([0.1, 0.4, 0.4, 0.8])
    label = np.array([False, True, False, True])
    # Pairs (0.4, 0.1), (0.4, 0.4), (0.8, 0.1), (0.8, 0.4): 3.5 of 4.
    assert area_under_curve(scores, label) == 3.5 / 4
    assert np.isnan(area_under_curve(scores, np.ones(4, dtype=bool)))


def test_the_token_alone_by_hand() -> None:
    tokens = np.array([0, 0, 0, 1, 2])
    label = np.array([True, True, False, False, False])
    found = token_scores(tokens, label, 3)
    # Class 1: 2 rows, token 0 twice; class 0: 3 rows, each token once.
    assert found == pytest.approx(np.log([3 / 5, 1 / 5, 1 / 5]) - np.log([1 / 3, 1 / 3, 1 / 3]))


@pytest.mark.parametrize("label", [np.zeros(5, dtype=bool), np.ones(5, dtype=bool)])
def test_a_label_of_one_class_is_refused(label: np.ndarray) -> None:
    with pytest.raises(FitError, match="wanted rows of both classes"):
        fit_probe(np.zeros((5, 2)), label)
    with pytest.raises(FitError, match="one class only"):
        separations(np.zeros((5, 2)), label[:, None])
