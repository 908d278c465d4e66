"""How faithful a circuit is, and areas under its curve.

m(C) is a metric of the model where everything outside of the circuit C is ablated, m(M) that of the
whole model, m(∅) that of the model where all is ablated:

    f(C) = (m(C) - m(∅)) / (m(M) - m(∅))           faithfulness; completeness is f(M without C)
    CPR  = ∫ f ds                                   higher is better
    CMD  = ∫ |1 - f| ds                             0 is best

s is the size of the circuit as a share of the whole; both areas are trapezoids over the given
sizes, as in MIB (Mueller et al. 2025, arXiv:2504.13151).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares at which MIB measures."""
SMALLEST_GAP = 1e-6
"""Under this share of the metrics themselves the gap is rounding."""


def faithfulness(circuit: float, empty: float, full: float) -> float:
    """f(C) from the three metrics; NaN where ablating all changes nothing that could be kept."""
    gap = full - empty
    if abs(gap) <= SMALLEST_GAP * max(abs(full), abs(empty)):
        return float("nan")
    return (circuit - empty) / gap


def cpr(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The area under f over sizes. Raises ValueError for sizes that do not ascend in (0, 1]."""
    return _area(sizes, values)


def cmd(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The area under |1 - f| over sizes. Raises what `cpr` raises."""
    return _area(sizes, [abs(1 - value) for value in values])


def _area(sizes: Sequence[float], values: Sequence[float]) -> float:
    steps = list(pairwise(sizes))
    ascend = all(a < b for a, b in steps) and bool(sizes) and sizes[0] > 0 and sizes[-1] <= 1
    if not ascend or len(sizes) != len(values):
        raise ValueError(
            f"got sizes {list(sizes)} and {len(values)} values; wanted shares that ascend in "
            "(0, 1], and one value for each"
        )
    return sum((b - a) * (values[i] + values[i + 1]) / 2 for i, (a, b) in enumerate(steps))
