"""Probes: whether a label can be read from a few columns of a representation.

Columns are chosen on training rows, each by itself, by how far apart the classes are in it (as in
Gurnee et al. 2023, "Finding Neurons in a Haystack", arXiv:2305.01610):

    d_j = |mean of class 1 − mean of class 0| / √(mean of the variances within the classes)

A logistic probe with equal weight of both classes is then fitted to them by Newton's method:

    min  Σ_i c_i log(1 + exp(−s_i (w·x_i + b))) / n + ridge/2 ‖w‖²,   s = ±1, c_i = n / (2 n_class)

on standardised columns. What is told is of other rows: balanced accuracy, the mean of the two
classes' shares that are right (0.5 for a probe that knows nothing, whatever the shares), and the
area under the curve, P(score of class 1 > score of class 0), ties as one half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array
from scipy.stats import rankdata

from bathyscope.errors import FitError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Matrix = Any
"""[rows, columns]: a NumPy array, or a sparse one of SciPy."""
RIDGE = 1e-3
_STEPS, _SMALLEST_STEP = 30, 1e-6
_NOTHING = 1e-12


def separations(x: Matrix, labels: Bools) -> Floats:
    """d_j of each column for each label, [labels, columns]; 0 for a column that does not vary.

    x is [rows, columns], dense or sparse, and labels [rows, labels]. Raises `FitError` for a label
    of one class.
    """
    counts = labels.sum(axis=0).astype(np.float64)
    if not (counts > 0).all() or not (counts < len(labels)).all():
        raise FitError(
            f"a label has rows of one class only: {counts.astype(int).tolist()} are true"
        )
    ones = labels.astype(np.float64)
    other = len(labels) - counts
    squares = x.power(2) if isinstance(x, csr_array) else np.square(x, dtype=np.float64)
    # [columns, labels]: sums over the rows of class 1, and over all rows.
    sums, square_sums = x.T @ ones, squares.T @ ones
    all_sums, all_squares = _column_sums(x)[:, None], _column_sums(squares)[:, None]
    first, second = sums / counts, (all_sums - sums) / other
    variances = square_sums / counts - first**2 + (all_squares - square_sums) / other - second**2
    # A column that is constant within both classes but differs between them parts them fully.
    scale = np.sqrt(np.maximum(variances / 2, 0)) + _NOTHING
    return np.asarray((np.abs(first - second) / scale).T)


def most_separate(x: Matrix, labels: Bools, k: int) -> NDArray[np.int64]:
    """The k columns that part the classes most, for each label [labels, k], the best first."""
    found = separations(x, labels)
    order = np.argsort(-found, axis=1, kind="stable")
    return order[:, : min(k, found.shape[1])].astype(np.int64)


@dataclass(frozen=True)
class Probe:
    """A logistic probe: score = w·(x − centre) / scale + b."""

    weights: Floats
    bias: float
    centre: Floats
    scale: Floats

    def scores(self, x: Floats) -> Floats:
        """Log odds of class 1 [rows], both classes equally likely beforehand; x [rows, columns]."""
        return ((x - self.centre) / self.scale) @ self.weights + self.bias


def fit_probe(x: Floats, label: Bools, *, ridge: float = RIDGE) -> Probe:
    """Fit a probe to x [rows, columns] and a label [rows].

    Raises `FitError` for a label of one class.
    """
    ones = int(label.sum())
    if not 0 < ones < len(label):
        raise FitError(f"{ones} of {len(label)} rows are true: wanted rows of both classes")
    values = np.asarray(x, dtype=np.float64)
    centre, scale = values.mean(axis=0), values.std(axis=0)
    scale = np.where(scale > _NOTHING, scale, 1.0)
    design = np.column_stack([(values - centre) / scale, np.ones(len(values))])
    signs = np.where(label, 1.0, -1.0)
    costs = np.where(label, 1 / (2 * ones), 1 / (2 * (len(label) - ones)))
    penalty = np.append(np.full(values.shape[1], ridge), _NOTHING)
    theta = _newton(design, signs, costs, penalty)
    return Probe(theta[:-1], float(theta[-1]), centre, scale)


def token_scores(tokens: NDArray[np.int64], label: Bools, vocabulary: int) -> Floats:
    """Log odds of class 1 for every token [vocabulary], from how often each has it.

        log (n_1v + 1) / (n_1 + V) − log (n_0v + 1) / (n_0 + V)

    It is the best that a probe can do that sees the current token alone, both classes equally
    likely beforehand.
    """
    ones = np.bincount(tokens[label], minlength=vocabulary) + 1.0
    zeros = np.bincount(tokens[~label], minlength=vocabulary) + 1.0
    return np.log(ones / ones.sum()) - np.log(zeros / zeros.sum())


def right_of_classes(scores: Floats, label: Bools, groups: NDArray[np.int64]) -> Floats:
    """Per group: rows of class 1, of these right, rows of class 0, of these right [groups, 4].

    Sums over groups give balanced accuracy, see `balanced_accuracy`. A score of 0 counts half.
    """
    said = np.where(scores > 0, 1.0, np.where(scores < 0, 0.0, 0.5))
    parts = (label, label * said, ~label, ~label * (1 - said))
    number = int(groups.max(initial=-1)) + 1
    return np.column_stack([np.bincount(groups, weights=p, minlength=number) for p in parts])


def balanced_accuracy(sums: Floats) -> Floats:
    """(right of class 1 / class 1 + right of class 0 / class 0) / 2 for rows of sums [n, 4].

    NaN where a class has no row.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums[:, 1] / sums[:, 0] + sums[:, 3] / sums[:, 2]) / 2


def area_under_curve(scores: Floats, label: Bools) -> float:
    """P(score of a row of class 1 > that of one of class 0), ties as one half; NaN for one class.

    By ranks: (Σ ranks of class 1 − n_1 (n_1 + 1) / 2) / (n_1 n_0) (Mann and Whitney 1947).
    """
    ones = int(label.sum())
    zeros = len(label) - ones
    if not ones or not zeros:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[label].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _newton(design: Floats, signs: Floats, costs: Floats, penalty: Floats) -> Floats:
    """Damped Newton steps to the minimum of the convex loss."""
    theta = np.zeros(design.shape[1])
    margins = np.zeros(len(design))
    loss = _loss(margins, costs, penalty, theta)
    for _ in range(_STEPS):
        wrong = 1 / (1 + np.exp(np.minimum(margins, 500)))
        gradient = penalty * theta - design.T @ (costs * signs * wrong)
        curved = costs * wrong * (1 - wrong)
        hessian = (design * curved[:, None]).T @ design
        hessian[np.diag_indices_from(hessian)] += penalty + _NOTHING
        step = cho_solve(cho_factor(hessian), gradient)
        if float(gradient @ step) < _SMALLEST_STEP**2:
            break
        moved = signs * (design @ step)
        share, better = 1.0, loss
        while share > 1e-4:
            better = _loss(margins - share * moved, costs, penalty, theta - share * step)
            if better < loss:
                break
            share /= 2
        if not better < loss:
            break
        theta, margins, loss = theta - share * step, margins - share * moved, better
    return theta


def _loss(margins: Floats, costs: Floats, penalty: Floats, theta: Floats) -> float:
    return float(costs @ np.logaddexp(0, -margins) + penalty @ theta**2 / 2)


def _column_sums(x: Matrix) -> Floats:
    return np.asarray(x.sum(axis=0), dtype=np.float64).ravel()
