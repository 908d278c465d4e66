"""From curves to tokens: how many each start needs to a loss, against the training from scratch.

The losses are those that the mean training from scratch has at some shares of its tokens. A start
costs its training rows and the rows that its map, or its principal directions, were fitted on: both
are rows of the target. A start that never gets to a loss counts as if it did at its last step. That
flatters it, and is counted and told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bathyscope.stages.studies.second.curves import LEVELS
from bathyscope.stages.studies.second.pairs import comparison_of
from bathyscope.stages.studies.second.starts import SCRATCH
from bathyscope.stages.studies.verdicts import Row
from bathyscope.studies.tokens_to_reach import tokens_to_reach
from bathyscope.values import Json


class Curve(NamedTuple):
    """A mean curve of several trainings that were measured after the same rows."""

    tokens: list[float]
    fvu: list[float]


def mean_curve(rows: Sequence[Row]) -> Curve | None:
    """The mean of the curves that were trained to the end; None without any."""
    whole = [row for row in rows if not row["error"]]
    if not whole:
        return None
    fvu = np.mean([row["curve_fvu"] for row in whole], axis=0)
    return Curve([float(t) for t in whole[0]["curve_tokens"]], fvu.tolist())


def reaches(rows: Sequence[Row]) -> list[Json]:
    """A record for every start and loss, with log2 of how many times fewer tokens it needs.

    Targets whose training from scratch failed give none.
    """
    scratch = {
        key: found
        for key in dict.fromkeys(_key(row) for row in rows)
        if (found := mean_curve([r for r in rows if _key(r) == key and r["start"] == SCRATCH]))
    }
    return [
        _record(row, share, scratch[_key(row)])
        for row in rows
        if _key(row) in scratch
        for share in LEVELS
    ]


def _record(row: Row, share: float, scratch: Curve) -> Json:
    last, one_step = scratch.tokens[-1], scratch.tokens[1]
    level = scratch.fvu[int(np.argmin(np.abs(np.array(scratch.tokens) - share * last)))]
    needed = max(tokens_to_reach(scratch.tokens, scratch.fvu, level).tokens, one_step)
    found = tokens_to_reach(row["curve_tokens"], row["curve_fvu"], level)
    tokens = last if found.censored == "never" else found.tokens
    # What is there before the first step has still to be looked at: one step's rows.
    training = max(tokens, one_step)
    cost = max(tokens + row["map_tokens"], one_step)
    final = row["final_fvu"]
    return {
        **{name: row[name] for name in _KEPT},
        "comparison": None if row["source"] is None else comparison_of(row),
        "share": share,
        "level": level,
        "scratch_tokens": needed,
        "tokens": tokens,
        "cost": cost,
        "censored": found.censored,
        "saving": math.log2(needed / cost),
        "saving_in_training": math.log2(needed / training),
        "ahead": None if final is None else scratch.fvu[-1] - final,
        "start_share": row["start_fvu"] / scratch.fvu[-1],
    }


_KEPT = (
    "target", "source", "architecture", "parameters", "model_seed", "overfitted", "protocol",
    "start", "map_tokens", "dictionary_seed", "start_fvu", "final_fvu",
)  # fmt: skip


def _key(row: Row) -> tuple[str, str]:
    return row["target"], row["protocol"]


def of(records: Sequence[Row], **wanted: object) -> list[Row]:
    """Records whose columns have these values; a tuple or list means one of them."""
    found = list(records)
    for name, value in wanted.items():
        allowed = value if isinstance(value, tuple | list) else (value,)
        found = [r for r in found if r[name] in allowed]
    return found


def judged(records: Sequence[Row]) -> list[Row]:
    """Those of models that carry verdicts: neither side overfitted."""
    return [r for r in records if not r["overfitted"]]


def against(records: Sequence[Row], others: Sequence[Row]) -> list[Json]:
    """log2 of how many times fewer tokens each record needs than another start of its target.

    The other is that of the same source where it has one, else the mean over those of the target.
    Records without another are left out.
    """
    found = []
    for record in records:
        same = [o for o in others if o["target"] == record["target"]]
        of_source = [o for o in same if o["source"] == record["source"]]
        chosen = of_source or same
        if chosen:
            other = float(np.mean([o["saving"] for o in chosen]))
            never = "never" if any(o["censored"] == "never" for o in chosen) else ""
            found.append({**record, "saving": record["saving"] - other, "other_censored": never})
    return found
