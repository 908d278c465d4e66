"""How many training tokens a curve of held-out loss needs to reach a level, with censoring.

Time to a threshold, as in DAWNBench (Coleman et al. 2017): the first tokens at which the loss is at
or below the level. Between two points the loss is a straight line over ln tokens, between 0 and the
first point over tokens. A curve that is there before its first step has needed no token, and one
that never is has needed more than were given: both are said, and neither is left out.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bathyscope.errors import FitError
from bathyscope.studies.points import columns

Censored = Literal["", "start", "never"]


class Reached(NamedTuple):
    """When a curve first was at a level."""

    tokens: float
    """0 where it was there before the first step; the last point where it never was."""
    censored: Censored
    """`start`: before the first step; `never`: not within what was measured."""


def tokens_to_reach(tokens: ArrayLike, loss: ArrayLike, level: float) -> Reached:
    """The first tokens at which the curve is at or below the level.

    `tokens` [points] rise from 0, which is before the first step, or from a first step; `loss`
    [points]. A curve that gets worse again later has reached it all the same. Raises `FitError` for
    a level that is not finite, and for tokens that do not rise.
    """
    places, values = columns(tokens=tokens, loss=loss)
    if not math.isfinite(level):
        raise FitError(f"the level is {level}; wanted a finite loss")
    if (len(places) > 1 and not (np.diff(places) > 0).all()) or places[0] < 0:
        raise FitError(f"tokens are {places.tolist()}; wanted numbers that rise from 0 or above")
    there = np.flatnonzero(values <= level)
    if not len(there):
        return Reached(float(places[-1]), "never")
    first = int(there[0])
    if first == 0:
        return Reached(float(places[0]), "start" if places[0] == 0 else "")
    share = (values[first - 1] - level) / (values[first - 1] - values[first])
    before, after = places[first - 1], places[first]
    if before == 0:
        return Reached(float(share * after), "")
    return Reached(float(before * (after / before) ** share), "")


def measured_after(num_steps: int, per_doubling: int, shares: ArrayLike = ()) -> list[int]:
    """Steps after which a curve is measured: 0, then evenly in ln steps, and at shares of all.

    Rising, each once, the last one among them. Raises `FitError` for fewer than one step.
    """
    if num_steps < 1 or per_doubling < 1:
        raise FitError(f"{num_steps} steps, {per_doubling} per doubling; wanted at least 1 of both")
    count = math.ceil(per_doubling * math.log2(num_steps)) + 1
    evenly = {round(2 ** (number / per_doubling)) for number in range(count)}
    at_shares = {max(round(share * num_steps), 1) for share in np.atleast_1d(np.asarray(shares))}
    return sorted({0, num_steps} | {step for step in evenly | at_shares if step <= num_steps})
