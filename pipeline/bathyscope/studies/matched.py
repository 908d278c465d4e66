"""Models at matched capability: a larger model's figures when it was as good as a small one.

A larger model differs from a small one in size and in loss. To compare at equal loss, the small
model's last checkpoint (loss L*) is set against the larger model's value where its training curve
first came down to L*, by linear interpolation in loss between the two checkpoints around it:

    value = v_a + (v_b - v_a) (l_a - L*) / (l_a - l_b)        l_a > L* ≥ l_b, b the next after a

The error of this is that of a straight line over the bracket; its width in loss and in value is in
the result. Losses must be of the same text and, over tokenisers, in bits per byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from bathyscope.errors import NonFiniteError
from bathyscope.values import Json

Status = Literal["matched", "never_reached", "starts_below"]


class Checkpoint(NamedTuple):
    """A point of a training curve."""

    step: int
    """Optimiser steps or tokens, ascending."""
    loss: float
    value: float
    """The figure to compare, for instance a mean squared overlap."""


@dataclass(frozen=True)
class Matched:
    """A larger model's value at a small model's loss, and what it rests on."""

    status: Status
    small: Checkpoint
    """The last checkpoint of the small model."""
    value: float | None
    """The larger model's at equal loss; None unless matched."""
    step: float | None
    """Where in the larger model's training, interpolated alike."""
    before: Checkpoint | None
    """The larger model's checkpoint just above L*; the one at L* where a checkpoint has it."""
    after: Checkpoint | None
    width: float | None
    """l_a - l_b, the bracket in loss; 0 where a checkpoint is at L*."""
    num_crossings: int
    """How often the curve passes L*, down or up; 1 where the first crossing is the only one."""
    monotone: bool
    """Whether loss falls at each step from one checkpoint before the bracket to one after it."""
    note: str
    """Why there is no value, or what to doubt in it; empty when there is nothing."""

    @property
    def difference(self) -> float | None:
        """The larger model's value less the small one's, at equal loss."""
        return None if self.value is None else self.value - self.small.value

    def to_dict(self) -> Json:
        """The figures as JSON values, checkpoints as {step, loss, value}."""
        points = {"small": self.small, "before": self.before, "after": self.after}
        named = {name: point and point._asdict() for name, point in points.items()}
        return asdict(self) | named | {"difference": self.difference}


def match_capability(small: Checkpoint, larger: Sequence[Checkpoint]) -> Matched:
    """The value of `larger` (checkpoints in order of training) at the loss of `small`.

    Raises `ValueError` for no checkpoints or steps that do not ascend, `NonFiniteError` for a NaN
    or infinite loss or value. That the curve never comes down to L*, or starts under it, is no
    error but a status with a note.
    """
    _check(small, larger)
    losses = [point.loss for point in larger]
    if min(losses) > small.loss:
        return _missing(
            small,
            "never_reached",
            f"the larger model's best loss is {min(losses):.6g}, above the small one's "
            f"{small.loss:.6g}: train it longer, or match against an earlier small checkpoint",
        )
    at = next(i for i, loss in enumerate(losses) if loss <= small.loss)
    if losses[at] < small.loss and at == 0:
        return _missing(
            small,
            "starts_below",
            f"the larger model's first checkpoint (step {larger[0].step}) has loss "
            f"{losses[0]:.6g}, already under {small.loss:.6g}: keep earlier checkpoints",
        )
    return _interpolated(small, larger, at)


def _interpolated(small: Checkpoint, larger: Sequence[Checkpoint], at: int) -> Matched:
    """`at` is the first checkpoint at or under the small model's loss."""
    losses = [point.loss for point in larger]
    exact = losses[at] == small.loss
    after = larger[at]
    before = after if exact else larger[at - 1]
    width = before.loss - after.loss
    share = 0.0 if exact else (before.loss - small.loss) / width
    around = losses[max(0, at - 2 + exact) : at + 2]
    monotone = all(a > b for a, b in pairwise(around))
    sides = [loss > small.loss for loss in losses if loss != small.loss]
    # A curve that ends at L*, or starts there, has come to it once without passing.
    crossings = max(1, sum(a != b for a, b in pairwise(sides)))
    return Matched(
        status="matched",
        small=small,
        value=before.value + share * (after.value - before.value),
        step=before.step + share * (after.step - before.step),
        before=before,
        after=after,
        width=width,
        num_crossings=crossings,
        monotone=monotone,
        note=_doubt(crossings, monotone),
    )


def _doubt(crossings: int, monotone: bool) -> str:
    doubts = []
    if crossings > 1:
        doubts.append(f"the loss passes the target {crossings} times; the first crossing is used")
    if not monotone:
        doubts.append("the loss does not fall at each checkpoint around the crossing")
    return "; ".join(doubts)


def _missing(small: Checkpoint, status: Status, note: str) -> Matched:
    return Matched(
        status=status,
        small=small,
        value=None,
        step=None,
        before=None,
        after=None,
        width=None,
        num_crossings=0,
        monotone=False,
        note=note,
    )


def _check(small: Checkpoint, larger: Sequence[Checkpoint]) -> None:
    if not larger:
        raise ValueError("the larger model has no checkpoints: wanted its training curve")
    for name, point in [("small", small), *(("larger", point) for point in larger)]:
        if not (math.isfinite(point.loss) and math.isfinite(point.value)):
            raise NonFiniteError(
                f"the {name} model's checkpoint at step {point.step} has loss {point.loss} and "
                f"value {point.value}: wanted finite numbers; leave the checkpoint out"
            )
    if not all(a.step < b.step for a, b in pairwise(larger)):
        raise ValueError(
            f"steps are {[point.step for point in larger]}: wanted checkpoints in the order of "
            "training, each step once"
        )
