"""What removal costs against training tokens and parameters at once, so that both are told apart.

All weights that were measured, last and along the training, at all shares enter one law for each
method and architecture: δ = C D^γ_D N^-γ_N exp(κ s + ε [last weights]), see `studies/laws.py`. Last
weights, whose learning rate has come to its end, have a factor of their own, so that γ_D is that of
training on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bathyscope.config import Config
from bathyscope.errors import FitError, NonFiniteError
from bathyscope.pages.study_data import Fit, Verdict
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import Row, judged, sign_of
from bathyscope.stages.studies.waste.along import ALONG_POINT, METHODS_ALONG
from bathyscope.stages.studies.waste.measures import POINT
from bathyscope.stages.studies.waste.methods import Method
from bathyscope.studies.fits import Fit as Fitted
from bathyscope.studies.fits import fit_damage
from bathyscope.studies.intervals import Intervals, bootstrap
from bathyscope.studies.intervals import Rows as Places
from bathyscope.studies.laws import DAMAGE

MOST_NATS = 1.0
"""Rises above this near that of guessing, where no power law goes on."""
RESAMPLES = 200
_FEWEST_SIZES = 3
_BEYOND = "gamma_N - gamma_D"


@dataclass(frozen=True)
class Damage:
    """The law of one method and architecture, with its intervals over models."""

    fitted: Fitted
    ends: Intervals
    seeds: int


def damage_laws(
    config: Config, members: Sequence[Member], rows: Sequence[Row]
) -> tuple[list[Verdict], list[Fit]]:
    """Two verdicts and a fit for each method and architecture that was measured along training."""
    verdicts, fits = [], []
    known = judged(members)
    for name in dict.fromkeys(m.architecture for m in known):
        alike = [m for m in known if m.architecture == name]
        laws = {method: _law(config, alike, rows, method) for method in METHODS_ALONG}
        for method, law in laws.items():
            if law is None:
                continue
            fits.append(_told(f"{name}: {method.words}", law))
            if isinstance(law, Damage) and not method.control:
                verdicts += _verdicts(name, method, law, _controls(laws))
    return verdicts, fits


def damage_points(members: Sequence[Member], rows: Sequence[Row], method: Method) -> list[Row]:
    """Rows that the law is fitted to: rises above 0, by their intervals, up to `MOST_NATS`."""
    names = {m.name: m.tokens for m in members}
    return [
        {**row, "read": row.get("state_tokens") or names[row["member"]]}
        for row in rows
        if row["kind"] in (POINT, ALONG_POINT)
        and names.get(row["member"]) is not None
        and row["method"] == method.name
        and row["share"] > 0
        and (row["rise_low"] or 0) > 0
        and row["rise"] <= MOST_NATS
    ]


def _law(
    config: Config, members: Sequence[Member], rows: Sequence[Row], method: Method
) -> Damage | str | None:
    """The law, why there is none, or None where size and training were not measured apart."""
    points = damage_points(members, rows, method)
    sizes = {m.parameters for m in members}
    if len(sizes) < _FEWEST_SIZES or not any(p["kind"] == ALONG_POINT for p in points):
        return None
    size_of = {m.name: m.parameters for m in members}
    try:
        fitted = fit_damage(
            [p["read"] for p in points],
            [size_of[p["member"]] for p in points],
            [p["share"] for p in points],
            [p["kind"] == POINT for p in points],
            [p["rise"] for p in points],
        )
        ends = _intervals(config, fitted, [p["member"] for p in points])
    except (FitError, NonFiniteError) as error:
        return f"Not fitted to {len(points)} points: {error}"
    return Damage(fitted, ends, len({m.seed for m in members}))


def _intervals(config: Config, fitted: Fitted, models: Sequence[str]) -> Intervals:
    """Of the parameters, and of γ_N - γ_D, over models: all weights of one are drawn together."""
    everything = np.arange(fitted.num_points)

    def numbers(places: Places) -> dict[str, float]:
        again = fitted if np.array_equal(places, everything) else fitted.refit(places)
        beyond = again.parameters["gamma_N"] - again.parameters["gamma_D"]
        return {**again.parameters, _BEYOND: beyond}

    return bootstrap(
        numbers,
        models,
        seed=config.study.seed,
        resamples=min(config.study.resamples, RESAMPLES),
        parameters=len(fitted.law.names),
    )


def _verdicts(name: str, method: Method, law: Damage, controls: str) -> list[Verdict]:
    """Whether training costs, and whether size gains more than training costs."""
    return [
        _verdict(
            f"{name}: at one size, models that read more text lose more by {method.words}.",
            law,
            "gamma_D",
            "exponent γ_D of training tokens",
            controls,
        ),
        _verdict(
            f"{name}: at equal tokens per parameter, larger models lose less by {method.words}.",
            law,
            _BEYOND,
            "γ_N - γ_D, exponent of parameters at a fixed ratio".replace(" - ", " − "),
            controls,
        ),
    ]


def _verdict(claim: str, law: Damage, key: str, unit: str, controls: str) -> Verdict:
    line = law.ends[key]
    return Verdict(
        claim=claim,
        answer=sign_of(line.estimate, line.low, line.high),
        value=line.estimate,
        low=line.low,
        high=line.high,
        unit=unit,
        controls=controls,
        doubt=f"{_residuals(law)} One law for all shares. Last weights, at the end of their "
        f"learning rate, lose {_ended(law)} times as much as before it, and that factor is taken "
        f"to be one for all models. Intervals are over {law.ends.num_groups} models.",
        would_change="The opposite sign in models whose learning rate came to its end at each of "
        "several numbers of tokens.",
    )


def _ended(law: Damage) -> str:
    line = law.ends["epsilon"]
    at, low, high = (math.exp(v) for v in (line.estimate, line.low, line.high))
    return f"{at:.3g} [{low:.3g}, {high:.3g}]"


def _controls(laws: dict[Method, Damage | str | None]) -> str:
    told = []
    for method, law in laws.items():
        if isinstance(law, Damage):
            parts = [_number(law, key) for key in ("gamma_D", "gamma_N")]
            told.append(f"{method.words} γ_D {parts[0]}, γ_N {parts[1]}")
    return f"{'; '.join(told)}."


def _number(law: Damage, key: str) -> str:
    line = law.ends[key]
    return f"{line.estimate:.2g} [{line.low:.2g}, {line.high:.2g}]".replace("-", "−")


def _told(title: str, law: Damage | str) -> Fit:
    """The fit as the page shows it."""
    title = f"{title}, ΔCE against training tokens D, parameters N, the share s that is gone"
    title += ", and e, 2 for last weights and 1 before"
    if isinstance(law, str):
        return Fit(title, DAMAGE.formula, {}, 0, 0, law)
    fitted, ends = law.fitted, law.ends
    parameters = {n: (v, ends[n].low, ends[n].high) for n, v in fitted.parameters.items()}
    told = _residuals(law)
    if ends.note:
        told += f" {ends.note}."
    told += f" Fails for rises that noise hides, which are left out, and above {MOST_NATS:g} nats."
    return Fit(title, DAMAGE.formula, parameters, fitted.num_points, law.seeds, told)


def _residuals(law: Damage) -> str:
    off = np.exp(np.abs(law.fitted.residuals))
    return (
        f"Half of {law.fitted.num_points} points lie within a factor of "
        f"{float(np.median(off)):.3g} of the law, the worst off by {float(off.max()):.3g}."
    )
