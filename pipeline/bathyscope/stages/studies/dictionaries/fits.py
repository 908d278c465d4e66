"""Laws of the dictionaries of each size of model: L(n, k), and loss against training compute."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bathyscope.config import Config
from bathyscope.errors import FitError, NonFiniteError
from bathyscope.pages.study_data import Fit
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.protocols import EQUAL_COUNT
from bathyscope.stages.studies.verdicts import Of, Row, judged
from bathyscope.studies.curves import crossing, frontier
from bathyscope.studies.fits import Fit as Fitted
from bathyscope.studies.fits import fit_intervals, fit_joint, fit_power_law

RESAMPLES = 200
"""Refits behind an interval of a law's parameter: each takes tens of milliseconds."""


def fits(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Fit]:
    """Both laws of every size that carries verdicts; seeds of one size are fitted together."""
    found = []
    groups: dict[str, list[Member]] = {}
    for member in judged(members):
        groups.setdefault(f"{member.architecture}, {member.parameters:,}", []).append(member)
    for name, alike in groups.items():
        names = {member.name for member in alike}
        own = [r for r in rows if r["kind"] == "dictionary" and r["member"] in names]
        seeds = len({member.seed for member in alike})
        found.append(_joint(config, name, own, seeds))
        found.append(_compute(config, name, own, seeds))
    return found


def latents_for_equal_fvu(members: Sequence[Member], rows: Sequence[Row]) -> list[Of]:
    """ln F at which each model reaches one FVU, the same L0 for all; empty where none is shared."""
    curves = {m.name: _curve(m, rows) for m in members}
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    if not curves:
        return []
    # Every model reaches this with its widest dictionary, and misses it with its narrowest.
    level = max(min(curve.values()) for curve in curves.values()) * 1.001
    found = []
    for member in members:
        if curve := curves.get(member.name):
            met = crossing(list(curve), list(curve.values()), level, log_x=True)
            if met.at is not None:
                found.append(Of(member, math.log(met.at)))
    return found


def _curve(member: Member, rows: Sequence[Row]) -> dict[int, float]:
    """FVU by F at the middle L0 of the protocol of equal counts."""
    own = [
        r
        for r in rows
        if r["member"] == member.name
        and r["kind"] == "dictionary"
        and EQUAL_COUNT in r["protocols"]
    ]
    ks = sorted({r["k"] for r in own})
    if not ks:
        return {}
    middle = [r for r in own if r["k"] == ks[len(ks) // 2]]
    widths = sorted({r["num_latents"] for r in middle})
    return {f: float(np.mean([r["fvu"] for r in middle if r["num_latents"] == f])) for f in widths}


def _joint(config: Config, name: str, rows: Sequence[Row], seeds: int) -> Fit:
    columns = [[r[key] for r in rows] for key in ("num_latents", "k", "fvu")]
    title = f"{name}: FVU against F = n and L0 = k"
    try:
        fitted = fit_joint(*columns)
    except (FitError, NonFiniteError) as error:
        return Fit(title, "L(n, k)", {}, len(rows), seeds, f"Not fitted: {error}")
    return _told(config, title, fitted, seeds, "n and k outside the measured ones.")


def _compute(config: Config, name: str, rows: Sequence[Row], seeds: int) -> Fit:
    ks = sorted({r["k"] for r in rows})
    title = f"{name}: FVU against compute"
    if not ks:
        return Fit(title, "E + A C^-alpha", {}, 0, seeds, "Not fitted: nothing was measured.")
    k = ks[len(ks) // 2]
    own = [r for r in rows if r["k"] == k]
    compute = np.array([r["compute"] for r in own])
    loss = np.array([r["fvu"] for r in own])
    best = frontier(compute, loss)
    title += f" in operations, at k = {k}, on the lower envelope"
    try:
        fitted = fit_power_law(compute[best], loss[best], irreducible=False)
    except (FitError, NonFiniteError) as error:
        return Fit(title, "A C^-alpha", {}, len(best), seeds, f"Not fitted: {error}")
    return _told(
        config,
        title,
        fitted,
        seeds,
        "compute is spent by the rule of rows per latent, so this is no frontier over both. An "
        "irreducible part is not told apart from so few points.",
    )


def _told(config: Config, title: str, fitted: Fitted, seeds: int, outside: str) -> Fit:
    """The fit with intervals over dictionaries, and where it fails."""
    ends = fit_intervals(
        fitted,
        np.arange(fitted.num_points),
        seed=config.study.seed,
        resamples=min(config.study.resamples, RESAMPLES),
    )
    parameters = {
        name: (value, ends[name].low, ends[name].high) for name, value in fitted.parameters.items()
    }
    worst = float(np.abs(fitted.residuals).max())
    told = f"Largest residual {100 * worst:.2g} %."
    if not fitted.starts.agree:
        told += " Other parameters fit these points as well: read predictions, not parameters."
    if ends.note:
        told += f" {ends.note}."
    return Fit(
        title,
        fitted.law.formula,
        parameters,
        fitted.num_points,
        seeds,
        f"{told} Fails for {outside}",
    )
