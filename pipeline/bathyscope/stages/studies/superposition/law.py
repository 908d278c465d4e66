"""The law of superposition: mean squared overlap as 1 / width, and loss against width with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bathyscope.config import Config
from bathyscope.errors import FitError, NonFiniteError
from bathyscope.pages.study_data import Fit, Verdict
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.superposition.figures import of
from bathyscope.stages.studies.superposition.verdicts import BOUND, CLUSTERED
from bathyscope.stages.studies.verdicts import Of, Row, by_architecture, judged, means
from bathyscope.studies.fits import fit_intervals, fit_power_law
from bathyscope.studies.regression import trend

PUBLISHED = "0.91 ± 0.04"
"""Exponent of loss against width over open models, Liu, Liu and Gore 2025."""
OF_LOSS_RESAMPLES = 200
_FEWEST = 3
"""Widths below which an exponent carries no verdict."""


def overlap_law(
    config: Config, members: Sequence[Member], rows: Sequence[Row]
) -> tuple[list[Verdict], list[Fit]]:
    """Whether mean squared overlap of unembedding rows goes as 1 / width, and loss with it."""
    verdicts, fits = [], []
    for kind, words in (
        ("unembedding_centred", ""),
        ("unembedding_frequency", ", weighted by how often a token occurs,"),
    ):
        widths = {r["member"]: r["d"] for r in rows if of(kind)(r)}
        values = means(judged(members), rows, "mean_squared_overlap", of(kind))
        for name, own in by_architecture(values).items():
            at = [widths[v.member.name] for v in own]
            if len(set(at)) < _FEWEST:
                continue
            verdicts.append(_exponent(config, f"{name}: unembedding rows{words}", own, at))
            losses = means([v.member for v in own], rows, "loss", of(kind))
            if losses and not words:
                fits.append(_of_loss(config, name, losses, at))
    return verdicts, fits


def _exponent(config: Config, whose: str, values: Sequence[Of], widths: Sequence[int]) -> Verdict:
    """`yes` where the interval of the exponent holds 1 and not 0."""
    line = trend(
        widths,
        [math.log(v.value) for v in values],
        [v.member.seed or 0 for v in values],
        seed=config.study.seed,
        resamples=config.study.resamples,
    ).slope
    alpha, low, high = -line.estimate, -line.high, -line.low
    answer = "not shown"
    if low > 1 or high < 1:
        answer = "no"
    elif low > 0:
        answer = "yes"
    return Verdict(
        claim=f"{whose} have a mean squared overlap that falls as 1 / width.",
        answer=answer,
        value=alpha,
        low=low,
        high=high,
        unit="exponent α of overlap ∝ width^-α",
        controls="Random directions 1. Strong superposition 1; published for loss against width "
        f"{PUBLISHED}.",
        doubt=f"{_span(widths)} {BOUND} Near this bound an exponent above 1 says nothing about "
        f"superposition. {CLUSTERED}",
        would_change="An interval without 1 over a decade of widths, n / d above 100 throughout.",
    )


def _of_loss(config: Config, name: str, losses: Sequence[Of], widths: Sequence[int]) -> Fit:
    """Loss against width, whose exponent is the one that was published."""
    title, formula = f"{name}: held-out loss against width", "L(m) = E + A m^-α"
    seeds = len({v.member.seed for v in losses})
    try:
        fitted = fit_power_law(widths, [v.value for v in losses])
        ends = fit_intervals(
            fitted,
            np.arange(len(losses)),
            seed=config.study.seed,
            resamples=min(config.study.resamples, OF_LOSS_RESAMPLES),
        )
    except (FitError, NonFiniteError) as error:
        return Fit(title, formula, {}, len(losses), seeds, f"Not fitted: {error}")
    parameters = {n: (v, ends[n].low, ends[n].high) for n, v in fitted.parameters.items()}
    told = f"{ends.note}. " if ends.note else ""
    if not fitted.starts.agree:
        told += "Other parameters fit these points as well. "
    return Fit(
        title,
        formula,
        parameters,
        fitted.num_points,
        seeds,
        f"{told}Published α over open models: {PUBLISHED}. {_span(widths)} E and α can "
        "hardly be told apart over less than a decade, and depth may grow with width.",
    )


def _span(widths: Sequence[int]) -> str:
    decades = math.log10(max(widths) / min(widths))
    return f"Widths {min(widths)} to {max(widths)}, {decades:.1f} decades."
