"""Feature files: what describe keeps of a latent, as the public viewers read it."""

from __future__ import annotations

import math
from typing import Any

import pytest

import viewer_schemas
from bathyscope.features.details import feature_detail

EDGES = [1.0, 2.0, 4.0, 8.0]
WORDS = ['"a"', "\n", "<b>", "🧭", " e"]
KEYS = {"transcoder_id", "index", "examples_quantiles", "top_logits", "bottom_logits", "act_min",
        "act_max", "quantile_values", "histogram", "activation_frequency"}  # fmt: skip


def words(ids: Any) -> list[str]:
    return [WORDS[i] for i in ids]


def latent(**changes: Any) -> dict[str, Any]:
    row = {
        "latent": 5, "count": 40, "density": 0.04, "mean": 2.5, "max": 8.0,
        "histogram": [10, 20, 10], "promoted_ids": [0, 1], "promoted_values": [1.0, 0.5],
        "suppressed_ids": [2], "suppressed_values": [-1.0],
    }  # fmt: skip
    return {**row, **changes}


def example(band: int, rank: int, **changes: Any) -> dict[str, Any]:
    row = {
        "latent": 5, "band": band, "rank": rank, "position": 12, "window_start": 10,
        "token_ids": [3, 4, 0], "activations": [0.0, 0.0, 8.0 - rank],
    }  # fmt: skip
    return {**row, **changes}


def detail(row: dict[str, Any], examples: list[dict[str, Any]]) -> dict[str, Any]:
    return feature_detail(row, examples, index=5, transcoder="t", edges=EDGES, words=words)


def test_every_key_and_the_schema() -> None:
    found = detail(latent(), [example(1, 0), example(0, 1), example(0, 0)])
    assert set(found) == KEYS
    assert found["top_logits"] == ['"a"', "\n"]
    assert found["bottom_logits"] == ["<b>"]
    names = [(q["quantile_name"], len(q["examples"])) for q in found["examples_quantiles"]]
    assert names == [("Top activations", 2), ("Quantile 1", 1)]
    first = found["examples_quantiles"][0]["examples"][0]
    assert first == {
        "tokens_acts_list": [0.0, 0.0, 8.0],
        "train_token_ind": 2,
        "is_repeated_datapoint": False,
        "tokens": ["🧭", " e", '"a"'],
    }
    viewer_schemas.check(found, "feature-details")


def test_even_bins_keep_counts_and_percentiles_are_where_they_belong() -> None:
    found = detail(latent(), [])
    histogram = found["histogram"]
    assert sum(histogram) == pytest.approx(40, rel=1e-4)
    assert len(histogram) == 50
    # Bins are 0.16 wide: none ends below 1 but the first six, and 20 counts lie between 2 and 4.
    assert sum(histogram[:6]) == pytest.approx(0, abs=1e-9)
    assert sum(histogram[25:]) == pytest.approx(10, rel=1e-3)
    quantiles = found["quantile_values"]
    assert quantiles == sorted(quantiles)
    assert quantiles[24] == pytest.approx(2.0)
    assert quantiles[49] == pytest.approx(3.0)
    assert quantiles[74] == pytest.approx(4.0)


@pytest.mark.parametrize("largest", [math.nan, None, 0.0])
def test_a_latent_that_was_never_active(largest: float | None) -> None:
    row = latent(max=largest, histogram=[0, 0, 0], density=0.0, promoted_ids=[], suppressed_ids=[])
    found = detail(row, [])
    assert (found["act_min"], found["act_max"]) == (0.0, 1.0)
    assert found["examples_quantiles"] == []
    assert set(found["histogram"]) == {0.0}
    viewer_schemas.check(found, "feature-details")
