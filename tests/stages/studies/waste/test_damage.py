"""What removal costs against tokens and parameters at once, on rows with a known law."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from bathyscope.config import Config, ModelConfig
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.waste.along import METHODS_ALONG
from bathyscope.stages.studies.waste.damage import damage_laws, damage_points
from support import changed

SIZES = (80_000, 160_000, 340_000, 600_000, 1_070_000)
TOKENS = 4_000_000


def members() -> list[Member]:
    return [
        Member(f"m-{size}-{seed}", "m", size, 0, seed, TOKENS, ModelConfig())
        for size in SIZES
        for seed in (0, 1)
    ]


def rows(gamma_d: float, gamma_n: float, *, along: bool = True) -> list[dict[str, Any]]:
    """Rises of δ = C D^γ_D N^-γ_N exp(8 s), 3 % higher for the second seed; 0.1 nats at s = 0.5."""
    found = []
    for each in members():
        states: list[tuple[str | None, int]] = [(None, TOKENS)]
        if along:
            states += [(f"step-{t}", t) for t in (100_000, 700_000)]
        for state, tokens in states:
            for method in METHODS_ALONG:
                for share in (0.0, 0.3, 0.5, 0.6, 0.95):
                    rise = (
                        0.1 * (tokens / TOKENS) ** gamma_d * (each.parameters / 80_000) ** -gamma_n
                    )
                    rise *= math.exp(8 * (share - 0.5)) * (1 + 0.03 * (each.seed or 0))
                    rise *= (3 if method.control else 1) * (1.5 if state is None else 1)
                    found.append({
                        "member": each.name, "method": method.name, "share": share,
                        "kind": "point" if state is None else "along_point",
                        "state_tokens": None if state is None else tokens,
                        "rise": rise if share else 0.0, "rise_low": 0.9 * rise if share else 0.0,
                    })  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("gamma_d", "gamma_n", "answers"),
    [(0.4, 0.6, ["yes", "yes"]), (0.4, 0.2, ["yes", "no"]), (-0.3, 0.0, ["no", "yes"])],
)
def test_size_and_training_are_told_apart(
    gamma_d: float, gamma_n: float, answers: list[str]
) -> None:
    config = changed(Config(), study__resamples=40)
    verdicts, fits = damage_laws(config, members(), rows(gamma_d, gamma_n))
    training, size, *others = verdicts
    assert training.claim == "m: at one size, models that read more text lose more by magnitude."
    assert size.claim == "m: at equal tokens per parameter, larger models lose less by magnitude."
    assert training.value == pytest.approx(gamma_d, abs=0.01)
    assert size.value == pytest.approx(gamma_n - gamma_d, abs=0.01)
    assert [training.answer, size.answer] == answers
    assert training.high - training.low < 0.05
    assert [v.answer for v in others] == answers
    assert "removing random weights γ_D" in training.controls
    assert "lose 1.5 [1.5, 1.5] times as much as before it" in training.doubt
    assert [fit.name.partition(",")[0] for fit in fits] == [
        f"m: {method.words}" for method in METHODS_ALONG
    ]
    assert fits[0].parameters["kappa"][0] == pytest.approx(8, rel=0.01)
    assert fits[0].seeds == 2


def test_rises_that_noise_hides_or_that_are_near_guessing_are_left_out() -> None:
    given = rows(0.0, 0.0)
    [magnitude, *_] = METHODS_ALONG
    points = damage_points(members(), given, magnitude)
    # 0.1 exp(8 · 0.45) is above a nat, and a share of 0 is no removal.
    assert {p["share"] for p in points} == {0.3, 0.5, 0.6}
    hidden = [r | {"rise_low": -0.01} if r["share"] == 0.3 else r for r in given]
    assert {p["share"] for p in damage_points(members(), hidden, magnitude)} == {0.5, 0.6}
    assert {p["read"] for p in points} == {100_000, 700_000, TOKENS}
    untold = [replace(m, tokens=None) for m in members()]
    assert damage_points(untold, given, magnitude) == []


def test_without_weights_along_the_training_there_is_no_law() -> None:
    assert damage_laws(Config(), members(), rows(0.4, 0.2, along=False)) == ([], [])
    few = [m for m in members() if m.parameters in SIZES[:2]]
    assert damage_laws(Config(), few, rows(0.4, 0.2)) == ([], [])
    spoiled = [replace(m, overfitted=True) for m in members()]
    assert damage_laws(Config(), spoiled, rows(0.4, 0.2)) == ([], [])


def test_a_law_that_the_points_do_not_determine_says_so() -> None:
    one = [r for r in rows(0.4, 0.2) if r["share"] == 0.5]
    verdicts, fits = damage_laws(Config(), members(), one)
    assert verdicts == []
    assert all("Not fitted to" in fit.fails for fit in fits)
    assert "cannot tell apart" in fits[0].fails
