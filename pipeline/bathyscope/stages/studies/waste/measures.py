"""What a model loses when parts of it are taken away: rows of points, a summary per method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bathyscope.errors import ModelError
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.study import Tell
from bathyscope.stages.studies.waste.curves import Curve, Drawn
from bathyscope.stages.studies.waste.methods import (
    BITS,
    BLOCKS,
    METHODS,
    WEIGHTS,
    Method,
    Step,
    block_choices,
    dropped,
    pruned,
    rounded,
)
from bathyscope.stages.studies.waste.trials import Losses, Trial, trial_of
from bathyscope.studies.grids import grid_reason
from bathyscope.studies.prunable import Prunable, prunable
from bathyscope.values import Json

COUNTS, POINT, SUMMARY, EXCLUDED = "counts", "point", "summary", "excluded"
_NO_BLOCKS = "it is of no family whose blocks are known, so none can be passed by"


def measure_waste(
    opened: OpenedMember, tell: Tell, methods: Sequence[Method] = METHODS
) -> list[Json]:
    """A row of counts, a row for each method and share, and one that sums up each method.

    Raises `ModelError` where the model is not in the end what it was in the beginning.
    """
    model, trial = opened.model.model, trial_of(opened)
    clean = trial.losses()
    found = prunable(model, heads=trial.heads)
    left_out = ", ".join(found.left_out)
    rows: list[Json] = [{"kind": COUNTS, **found.counts._asdict(), "left_out": left_out}]
    ways = _ways(opened, found, trial, methods)
    for number, method in enumerate(methods):
        steps = ways[method.name]
        if isinstance(steps, str):
            rows.append({"kind": EXCLUDED, **_of(method), "reason": steps})
            continue
        done: list[Step] = []
        for step in steps:
            done.append(step)
            told = f"{method.words}, {step.share:.0%} gone"
            tell((number + min(len(done) / 10, 1.0)) / len(methods), told)
        rows += _rows(opened, method, done, clean, trial)
    _check_restored(clean, trial.losses())
    per = {"measure": trial.measure, "clean_loss": clean.mean(), "documents": len(clean.counts)}
    return [{**row, **per} for row in rows]


def _ways(
    opened: OpenedMember, found: Prunable, trial: Trial, methods: Sequence[Method]
) -> dict[str, Iterator[Step] | str]:
    """The steps of each method, or why it has none; nothing is run before it is asked for."""
    study, model = opened.config.study, opened.model.model
    blocks = any(method.kind == BLOCKS for method in methods)
    choices = block_choices(model, trial, study.seed) if blocks else {}
    reason = grid_reason(found.weights)
    ways: dict[str, Iterator[Step] | str] = {}
    for method in methods:
        if method.kind == WEIGHTS:
            ways[method.name] = pruned(
                model, found, trial, method.name, sorted(study.shares), study.seed
            )
        elif method.kind == BITS:
            ways[method.name] = reason or rounded(found, trial, study.bits)
        else:
            assert method.kind == BLOCKS
            chosen = choices.get(method.name)
            ways[method.name] = _NO_BLOCKS if chosen is None else dropped(model, trial, chosen)
    return ways


def _rows(
    opened: OpenedMember, method: Method, steps: Sequence[Step], clean: Losses, trial: Trial
) -> list[Json]:
    study = opened.config.study
    drawn = Drawn(study.resamples, study.seed)
    curve = Curve([s.share for s in steps], [s.losses for s in steps], clean)
    rows: list[Json] = []
    for step, rise in zip(steps, curve.rises(drawn), strict=True):
        bits = None if trial.bits_per_nat is None else rise.estimate * trial.bits_per_nat
        rows.append(
            {
                "kind": POINT,
                **_of(method),
                "share": step.share,
                "what": step.what,
                "bits": step.bits,
                "blocks": step.blocks,
                "rise": rise.estimate,
                "rise_low": rise.low,
                "rise_high": rise.high,
                "rise_bits_per_byte": bits,
            }
        )
    rows.append({"kind": SUMMARY, **_of(method), **curve.summary(study.budget_nats, drawn)})
    return rows


def _of(method: Method) -> Json:
    return {"method": method.name, "taken": method.kind, "control": method.control}


def _check_restored(before: Losses, after: Losses) -> None:
    if not np.array_equal(before.sums, after.sums):
        raise ModelError(
            "After all changes were undone the model gives other losses than before them "
            f"({after.mean()!r} nats and {before.mean()!r}), so the figures between cannot be "
            "trusted. Does its forward change weights or draw numbers?"
        )
