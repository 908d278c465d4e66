"""Means over pairs or prompts of a member, with intervals over documents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bathyscope.metrics.bootstrap import bootstrap_ratio
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.values import Json


def mean_over_documents(
    opened: OpenedMember, name: str, values: NDArray[np.float64], documents: NDArray[np.int64]
) -> Json:
    """The mean of values [n] where they are finite, its interval, and how many are not.

    Keys are `name`, `name`_low, `name`_high and `name`_undefined; None where nothing is finite.
    """
    study, defined = opened.config.study, np.isfinite(values)
    found: Json = {f"{name}_undefined": int((~defined).sum())}
    if not defined.any():
        return {**found, name: None, f"{name}_low": None, f"{name}_high": None}
    _, owners = np.unique(documents[defined], return_inverse=True)
    sums = np.bincount(owners, weights=values[defined]).astype(np.float64)
    counts = np.bincount(owners).astype(np.float64)
    mean = bootstrap_ratio(sums, counts, resamples=study.resamples, seed=study.seed)
    return {**found, name: mean.estimate, f"{name}_low": mean.low, f"{name}_high": mean.high}
