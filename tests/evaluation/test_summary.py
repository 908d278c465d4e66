"""Results from sums: keys, numbers by hand, intervals, and what is undefined."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bathyscope.evaluation.summary import summarise_splice, without_nan
from bathyscope.metrics.splice import DocumentLosses

KEYS = {
    "ce",
    "delta_ce",
    "delta_ce_interval",
    "kl",
    "kl_interval",
    "loss_recovered_zero",
    "loss_recovered_mean",
}


def documents(ce: list[float], kl: list[float]) -> DocumentLosses:
    tokens = np.array([10, 30, 20][: len(ce)])
    return DocumentLosses(np.arange(len(ce)), tokens, np.array(ce), np.array(kl))


def four_variants() -> dict[str, DocumentLosses]:
    """60 tokens in three documents: CE 3 clean, 3.5 spliced, 8 zero, 5 mean."""
    return {
        "clean": documents([30, 90, 60], [0, 0, 0]),
        "dictionary": documents([40, 100, 70], [3, 6, 3]),
        "zero": documents([80, 240, 160], [50, 150, 100]),
        "mean": documents([50, 150, 100], [20, 60, 40]),
    }


def test_keys_and_numbers_by_hand() -> None:
    results = summarise_splice(four_variants(), resamples=200, seed=0)
    assert list(results) == ["dictionary", "zero", "mean"]
    assert all(set(variant) == KEYS for variant in results.values())
    found = results["dictionary"]
    assert found["ce"] == pytest.approx(3.5)
    assert found["delta_ce"] == pytest.approx(0.5)
    assert found["kl"] == pytest.approx(0.2)
    assert found["loss_recovered_zero"]["value"] == pytest.approx((8 - 3.5) / (8 - 3))
    assert found["loss_recovered_mean"]["value"] == pytest.approx((5 - 3.5) / (5 - 3))
    assert found["loss_recovered_zero"]["reason"] == ""


def test_a_baseline_recovers_nothing_of_itself() -> None:
    results = summarise_splice(four_variants(), resamples=200, seed=0)
    for name in ("zero", "mean"):
        own = results[name][f"loss_recovered_{name}"]
        assert own["value"] == 0.0
        assert own["interval"] == [0.0, 0.0]
    # Mean ablation is better than zero ablation, and the reverse.
    assert results["mean"]["loss_recovered_zero"]["value"] == pytest.approx(0.6)
    assert results["zero"]["loss_recovered_mean"]["value"] == pytest.approx(-1.5)


def test_intervals_hold_the_estimate_and_stay_within_the_documents() -> None:
    found = summarise_splice(four_variants(), resamples=2000, seed=0)["dictionary"]
    low, high = found["delta_ce_interval"]
    # ΔCE of the documents alone is 1, 1/3 and 1/2: no mixture of them leaves that range.
    assert 1 / 3 <= low < 0.5 < high <= 1
    low, high = found["kl_interval"]
    assert 0.15 <= low < 0.2 < high <= 0.3
    low, high = found["loss_recovered_zero"]["interval"]
    assert 0.8 <= low < 0.9 < high <= 14 / 15


def test_the_seed_decides_the_interval() -> None:
    one, same, other = (
        summarise_splice(four_variants(), resamples=20, seed=seed)["dictionary"]
        for seed in (0, 0, 1)
    )
    assert one == same
    assert one["delta_ce"] == other["delta_ce"]
    assert one["delta_ce_interval"] != other["delta_ce_interval"]


def test_an_ablation_that_costs_nothing_leaves_the_ratio_undefined() -> None:
    variants = four_variants()
    variants["mean"] = variants["clean"]
    found = summarise_splice(variants, resamples=20, seed=0)["dictionary"]["loss_recovered_mean"]
    assert math.isnan(found["value"])
    assert "nothing to recover" in found["reason"]


def test_one_document_has_figures_and_no_interval() -> None:
    variants = {
        name: documents([losses.ce_sums[0]], [losses.kl_sums[0]])
        for name, losses in four_variants().items()
    }
    found = without_nan(summarise_splice(variants, resamples=20, seed=0)["dictionary"])
    assert found["delta_ce"] == pytest.approx(1.0)
    assert found["delta_ce_interval"] == [None, None]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_without_nan_changes_undefined_numbers_only() -> None:
    given = {
        "a": [1.5, math.nan, {"b": math.inf, "c": "nan"}],
        "d": {"e": -math.inf, "f": 0, "g": True, "h": None},
    }
    assert without_nan(given) == {
        "a": [1.5, None, {"b": None, "c": "nan"}],
        "d": {"e": None, "f": 0, "g": True, "h": None},
    }
    assert math.isnan(given["a"][1])  # type: ignore[arg-type]
