"""Learning rates by hand."""

from __future__ import annotations

import pytest

from bathyscope.training.schedule import make_schedule


def rates(num_steps: int, warmup_share: float, decay_share: float, lr: float = 6.0) -> list[float]:
    schedule = make_schedule(
        lr=lr, num_steps=num_steps, warmup_share=warmup_share, decay_share=decay_share
    )
    return [schedule.at(step) for step in range(num_steps)]


def test_growth_plateau_and_fall() -> None:
    # 2 of 10 steps grow, 3 fall; the last step still moves.
    assert rates(10, 0.2, 0.3) == pytest.approx([3, 6, 6, 6, 6, 6, 6, 6, 4, 2])


@pytest.mark.parametrize(
    ("warmup", "decay", "wanted"),
    [
        (0.0, 0.0, [6, 6, 6, 6]),
        (1.0, 0.0, [1.5, 3, 4.5, 6]),
        (0.0, 1.0, [6, 4.5, 3, 1.5]),
        (0.5, 0.5, [3, 6, 6, 3]),
    ],
)
def test_phases_of_any_length(warmup: float, decay: float, wanted: list[float]) -> None:
    assert rates(4, warmup, decay) == pytest.approx(wanted)


def test_one_step_has_the_full_rate() -> None:
    assert rates(1, 0.05, 0.3) == [6.0]
