"""Feature files of the public viewers, from the rows that describe keeps of a latent.

The keys are those of circuit-tracer 0.5 and of Neuronpedia's schema of feature details. Viewers
want activations in bins of one width from `act_min` to `act_max`, and their percentiles: both are
read off our histogram, whose bins grow by a constant factor, as if each bin were filled evenly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from bathyscope.values import Json

Words = Callable[[Sequence[int]], list[str]]
"""Token ids -> what they look like in text."""

_BINS = 50
_PERCENTS = np.arange(1, 100)


def feature_detail(
    latent: Json,
    examples: Sequence[Json],
    *,
    index: int,
    transcoder: str,
    edges: Sequence[float],
    words: Words,
) -> Json:
    """The file of one latent.

    `latent` and `examples` are rows of the tables of `features/<dictionary>`, `edges` those of its
    histograms [bins + 1], `index` the latent's number in its layer. A latent that was never active
    has no examples, and a range from 0 to 1.
    """
    largest = latent["max"]
    silent = largest is None or not math.isfinite(largest) or largest <= 0
    act_max = 1.0 if silent else float(largest)
    counts = np.asarray(latent["histogram"], dtype=np.float64)
    return {
        "transcoder_id": transcoder,
        "index": index,
        "examples_quantiles": _quantiles(examples, words),
        "top_logits": words(latent["promoted_ids"]),
        "bottom_logits": words(latent["suppressed_ids"]),
        "act_min": 0.0,
        "act_max": act_max,
        "quantile_values": _percentiles(counts, np.asarray(edges), act_max),
        "histogram": _even_bins(counts, np.asarray(edges), act_max),
        "activation_frequency": float(latent["density"]),
    }


def _quantiles(examples: Sequence[Json], words: Words) -> list[Json]:
    ordered = sorted(examples, key=lambda e: (e["band"], e["rank"]))
    return [
        {
            "quantile_name": f"Quantile {band}" if band else "Top activations",
            "examples": [_example(example, words) for example in members],
        }
        for band, members in groupby(ordered, key=lambda e: int(e["band"]))
    ]


def _example(example: Json, words: Words) -> Json:
    values = [float(v) if math.isfinite(v) else 0.0 for v in example["activations"]]
    return {
        "tokens_acts_list": [float(f"{v:.6g}") for v in values],
        "train_token_ind": int(example["position"] - example["window_start"]),
        "is_repeated_datapoint": False,
        "tokens": words(example["token_ids"]),
    }


def _cumulative(counts: np.ndarray, edges: np.ndarray, largest: float) -> tuple[np.ndarray, ...]:
    """Edges within 0 to `largest`, and the counts up to each."""
    inside = np.clip(edges, 0.0, largest)
    return inside, np.concatenate([[0.0], np.cumsum(counts)])


def _even_bins(counts: np.ndarray, edges: np.ndarray, largest: float) -> list[float]:
    inside, up_to = _cumulative(counts, edges, largest)
    at = np.interp(np.linspace(0, largest, _BINS + 1), inside, up_to, left=0.0)
    # What lies at the very edges belongs to the first and the last bin.
    at[0], at[-1] = 0.0, up_to[-1]
    return [float(f"{n:.6g}") for n in np.diff(at)]


def _percentiles(counts: np.ndarray, edges: np.ndarray, largest: float) -> list[float]:
    inside, up_to = _cumulative(counts, edges, largest)
    if up_to[-1] <= 0:
        return [0.0] * len(_PERCENTS)
    filled = np.concatenate([[True], np.diff(up_to) > 0])
    found = np.interp(_PERCENTS / 100 * up_to[-1], up_to[filled], inside[filled])
    return [float(f"{v:.6g}") for v in found]
