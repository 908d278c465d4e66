"""Verdicts of the study of capability on figures with a known answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bathyscope.config import Config, ModelConfig
from bathyscope.pages.study import study_page, text_verdicts
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.capability import study as capability
from bathyscope.stages.studies.capability.shapes import TENTH
from bathyscope.stages.studies.capability.techniques import TECHNIQUES
from bathyscope.stages.studies.member import Member

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
ATP = next(t for t in TECHNIQUES if t.short == "AtP against exact patching")
Shape = Callable[[float], float]


def config(**study: Any) -> Config:
    made = Config()
    for name, value in {"resamples": 200, **study}.items():
        setattr(made.study, name, value)
    return made


def member(size: int, seed: int, **changes: Any) -> Member:
    return Member(f"m-{size}-{seed}", "m", size, 0, seed, 1000, ModelConfig(), **changes)


def family(
    shape: Shape,
    sizes: tuple[int, ...] = SIZES,
    seeds: tuple[int, ...] = (0, 1),
    noise: float = 0.004,
) -> tuple[list[Member], list[dict[str, Any]]]:
    """Models whose AtP agrees with exact patching as `shape` of log10 of the size / 10^5 says."""
    draw, members, rows = np.random.default_rng(0), [], []
    for size in sizes:
        for seed in seeds:
            own = member(size, seed)
            decade = math.log10(size / 1e5)
            value = shape(decade) + noise * float(draw.normal())
            bits = 2 * 0.8 ** (decade + 0.01 * seed)
            members.append(own)
            rows += [
                {"member": own.name, "kind": "capability", "bits_per_byte": bits},
                {
                    "member": own.name, "kind": "patching", "method": "atp", "protocols": [],
                    "pearson": value, "pearson_low": value - 0.01, "pearson_high": value + 0.01,
                    "spearman": value, "relative_error": 0.2,
                },
                {
                    "member": own.name, "kind": "patching", "method": "other_pair",
                    "protocols": [], "pearson": 0.01, "spearman": 0.0, "relative_error": 2.0,
                },
            ]  # fmt: skip
    return members, rows


def of(shape: Shape, made: Config | None = None, **given: Any) -> tuple[Verdict, Verdict, Verdict]:
    """Whether it has a middle, rises with size, and rises with capability."""
    members, rows = family(shape, **given)
    page = capability.conclude(made or config(), members, rows)
    middle, size, power = page.verdicts
    assert ATP.subject in middle.claim
    assert study_page(page)
    assert text_verdicts(page)
    return middle, size, power


def test_a_top_at_a_middle_size_is_named_with_its_place() -> None:
    middle, size, power = of(lambda x: 0.8 - 0.2 * (x - 0.1) ** 2)
    assert middle.answer == "yes"
    assert middle.unit == "parameters"
    assert middle.low < 10**5.1 < middle.high
    assert middle.value == pytest.approx(10**5.1, rel=0.2)
    assert "Over capability: maximum at 1.9" in middle.doubt
    assert "bits per byte" in middle.doubt
    assert size.answer == power.answer == "not shown"


def test_a_valley_is_the_opposite() -> None:
    assert of(lambda x: 0.4 + 0.2 * (x + 0.1) ** 2)[0].answer == "no"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_straight_line_has_no_middle(sign: int) -> None:
    middle, size, power = of(lambda x: 0.5 + sign * 0.1 * x)
    assert middle.answer == "not shown"
    assert "there is no extremum to place" in middle.doubt
    assert size.answer == power.answer == ("yes" if sign > 0 else "no")
    assert size.value == pytest.approx(sign * 0.1, abs=0.01)
    # A decade more has 0.8 times the bits: of a tenth fewer, so many decades are enough.
    assert power.value == pytest.approx(sign * 0.1 * TENTH / math.log(1 / 0.8), abs=0.01)


def test_a_curve_that_flattens_is_no_middle() -> None:
    assert of(lambda x: 0.8 - 0.3 * math.exp(-2 * (x + 1)))[0].answer == "not shown"


@pytest.mark.parametrize(
    "given", [{"sizes": SIZES[:4]}, {"seeds": (0,)}], ids=["four sizes", "one seed"]
)
def test_too_few_sizes_or_seeds_name_no_middle(given: dict[str, Any]) -> None:
    middle, *_ = of(lambda x: 0.8 - 0.2 * (x + 0.2) ** 2, **given)
    assert middle.answer == "not shown"
    assert "too few to name a middle" in middle.doubt
    assert "an extremum is named from 5 such sizes on" in middle.doubt


def test_two_sizes_carry_no_verdict() -> None:
    members, rows = family(lambda x: x, sizes=SIZES[:2])
    page = capability.conclude(config(), members, rows)
    assert not page.verdicts
    assert page.answer.startswith("Nothing was measured")
    assert study_page(page)


def test_overfitted_and_untrained_models_are_controls_at_most() -> None:
    members, rows = family(lambda x: 0.5 + 0.1 * x)
    spoiled = [member(10_000_000, seed, overfitted=True) for seed in (0, 1)]
    first = [member(size, 5, trained=False) for size in SIZES]
    more = []
    for each in [*spoiled, *first]:
        more += [
            {"member": each.name, "kind": "capability", "bits_per_byte": 3.0},
            {"member": each.name, "kind": "patching", "method": "atp", "pearson": 0.03,
             "spearman": 0.0, "relative_error": 1.0, "protocols": []},
        ]  # fmt: skip
    alone = capability.conclude(config(), members, rows).verdicts
    beside = capability.conclude(config(), [*members, *spoiled, *first], rows + more).verdicts
    assert [(v.value, v.answer) for v in beside] == [(v.value, v.answer) for v in alone]
    assert "models without training 0.03" in beside[1].controls


def test_controls_and_the_count_of_models_stand_in_each_verdict() -> None:
    for verdict in of(lambda x: 0.5 + 0.1 * x):
        assert verdict.controls.startswith("AtP 0.")
        assert "scores of another pair 0.01" in verdict.controls
        assert "5 sizes, 2 seeds" in verdict.doubt
        assert verdict.would_change


def test_a_technique_that_some_models_lack_is_judged_of_the_others() -> None:
    members, rows = family(lambda x: 0.5 + 0.1 * x)
    rows = [r for r in rows if r["kind"] != "patching" or "10000-" not in r["member"]]
    page = capability.conclude(config(), members, rows)
    assert [v.answer for v in page.verdicts] == ["not shown", "yes", "yes"]
    assert "4 sizes, 2 seeds: too few to name a middle" in page.verdicts[0].doubt


def test_a_technique_that_gives_less_than_a_control_is_named() -> None:
    members, rows = family(lambda x: 0.3 + 0.01 * x)
    page = capability.conclude(config(), members, rows)
    [table] = [t for t in page.tables if "strongest control" in t.title]
    [row] = table.rows
    assert (row["control"], row["answer"]) == ("scores of another pair", "yes")
    value, low, high = row["difference"]
    assert value == pytest.approx(0.29, abs=0.01)
    assert low < value < high
    assert "Not above" not in page.answer
    for each in rows:
        if each.get("method") == "other_pair":
            each["pearson"] = 0.5
    page = capability.conclude(config(), members, rows)
    told = "Not above the strongest control: AtP against exact patching (scores of another pair)."
    assert page.answer.endswith(told)
