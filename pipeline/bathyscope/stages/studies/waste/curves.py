"""A curve of loss against the share removed: what is removable within a budget, and its area.

Intervals draw documents, the same for all points of a curve: the whole curve is drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from bathyscope.metrics.bootstrap import Interval, bootstrap_statistic
from bathyscope.stages.studies.waste.trials import Losses
from bathyscope.studies.curves import crossing
from bathyscope.values import Json

Floats = NDArray[np.float64]


class Drawn(NamedTuple):
    """How intervals are made."""

    resamples: int
    seed: int


@dataclass(frozen=True)
class Curve:
    """Losses of a model after one method, at rising shares from 0 on."""

    shares: Sequence[float]
    losses: Sequence[Losses]
    clean: Losses
    """Of the model before anything was taken; the same documents."""

    def rises(self, drawn: Drawn) -> list[Interval]:
        """What the loss rises by at each share, in nats, with its interval over documents."""
        columns = self._columns()
        return [
            bootstrap_statistic(columns[:, [0, i + 1]], _first_rise, **drawn._asdict())
            for i in range(len(self.shares))
        ]

    def summary(self, budget: float, drawn: Drawn) -> Json:
        """Share removable at a budget of nats, and mean rise over the shares, with intervals."""
        columns, shares = self._columns(), np.asarray(self.shares)

        def removable(sums: Floats) -> Floats:
            return np.array([removable_share(shares, y, budget)[0] for y in _rises(sums)])

        def area(sums: Floats) -> Floats:
            return trapezoid(_rises(sums), shares, axis=1) / shares[-1]

        share = bootstrap_statistic(columns, removable, **drawn._asdict())
        mean = bootstrap_statistic(columns, area, **drawn._asdict())
        found = removable_share(shares, _rises(columns.sum(0, keepdims=True))[0], budget)
        return {
            "removable": share.estimate,
            "removable_low": share.low,
            "removable_high": share.high,
            "at_least": found[1],
            "removable_note": found[2],
            "area": mean.estimate,
            "area_low": mean.low,
            "area_high": mean.high,
        }

    def _columns(self) -> Floats:
        """Counts, and the rise of each share in nats [documents, 1 + shares]."""
        clean = self.clean
        return np.stack([clean.counts, *(each.sums - clean.sums for each in self.losses)], axis=1)


def removable_share(shares: Floats, rises: Floats, budget: float) -> tuple[float, bool, str]:
    """The share at which a curve first meets the budget; whether it is a least value; a note.

    A curve that stays under the budget gives its largest share, which is then a least value.
    """
    met = crossing(shares, rises, budget)
    if met.at is None:
        return float(shares[-1]), True, met.reason
    return met.at, False, met.reason


def _rises(sums: Floats) -> Floats:
    return sums[:, 1:] / sums[:, :1]


def _first_rise(sums: Floats) -> Floats:
    return _rises(sums)[:, 0]
