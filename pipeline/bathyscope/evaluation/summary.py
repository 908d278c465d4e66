"""From sums to the results that are stored and reported."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bathyscope.metrics.bootstrap import Interval, bootstrap_ratio, bootstrap_statistic
from bathyscope.metrics.splice import (
    CLEAN,
    DocumentLosses,
    delta_ce,
    loss_recovered,
    recovered_from_sums,
)
from bathyscope.values import Json

BASELINES = ("zero", "mean")


def summarise_splice(
    losses: dict[str, DocumentLosses], *, resamples: int, seed: int
) -> dict[str, Json]:
    """Per variant: CE, ΔCE and KL in nats with intervals, loss recovered against each baseline."""
    return {
        name: _variant(name, losses, resamples=resamples, seed=seed)
        for name in losses
        if name != CLEAN
    }


def without_nan(results: Any) -> Any:
    """The same results with None where a figure is undefined: JSON knows no NaN."""
    if isinstance(results, dict):
        return {key: without_nan(value) for key, value in results.items()}
    if isinstance(results, list):
        return [without_nan(value) for value in results]
    if isinstance(results, float) and not math.isfinite(results):
        return None
    return results


def _variant(name: str, losses: dict[str, DocumentLosses], *, resamples: int, seed: int) -> Json:
    clean, changed = losses[CLEAN], losses[name]
    tokens = clean.num_tokens.astype(np.float64)
    difference = bootstrap_ratio(
        changed.ce_sums - clean.ce_sums, tokens, resamples=resamples, seed=seed
    )
    divergence = bootstrap_ratio(changed.kl_sums, tokens, resamples=resamples, seed=seed)
    found: Json = {
        "ce": changed.mean_ce(),
        "delta_ce": delta_ce(clean, changed),
        "delta_ce_interval": _ends(difference),
        "kl": changed.mean_kl(),
        "kl_interval": _ends(divergence),
    }
    for baseline in BASELINES:
        found[f"loss_recovered_{baseline}"] = _recovered(
            losses, name, baseline, resamples=resamples, seed=seed
        )
    return found


def _recovered(
    losses: dict[str, DocumentLosses], name: str, baseline: str, *, resamples: int, seed: int
) -> Json:
    clean, changed, ablated = losses[CLEAN], losses[name], losses[baseline]
    recovered = loss_recovered(
        clean.mean_ce(), changed.mean_ce(), ablated.mean_ce(), baseline=baseline
    )
    columns = np.stack(
        [clean.num_tokens.astype(np.float64), clean.ce_sums, changed.ce_sums, ablated.ce_sums],
        axis=1,
    )
    interval = bootstrap_statistic(columns, recovered_from_sums, resamples=resamples, seed=seed)
    return {"value": recovered.value, "interval": _ends(interval), "reason": recovered.reason}


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]
