"""The learning rate over steps: linear growth, plateau, linear fall to zero."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """`at(step)` is the learning rate of a step; steps count from 0."""

    lr: float
    num_steps: int
    warmup_steps: int
    decay_steps: int

    def at(self, step: int) -> float:
        """Learning rate of one step. The last step still has a rate above zero."""
        rise = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        fall = (self.num_steps - step) / self.decay_steps if self.decay_steps else 1.0
        return self.lr * min(1.0, rise, fall)


def make_schedule(
    *, lr: float, num_steps: int, warmup_share: float, decay_share: float
) -> Schedule:
    """A schedule whose phases are shares of all steps."""
    return Schedule(lr, num_steps, round(warmup_share * num_steps), round(decay_share * num_steps))
