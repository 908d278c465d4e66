"""Figures of probes: each by itself on held-out rows, and the means over labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bathyscope.metrics.bootstrap import bootstrap_statistic
from bathyscope.stages.studies.member_runs import Size
from bathyscope.studies.probes import area_under_curve, balanced_accuracy, right_of_classes
from bathyscope.studies.token_labels import Label
from bathyscope.values import Json

PROBE, PROBES = "probe", "probes"
DENSE, FLOOR = "dense", "token"
NO_DICTIONARY = Size(0, 0, 0)


@dataclass(frozen=True)
class Scored:
    """What a probe says of every held-out row."""

    label: Label
    kind: str
    size: Size
    """Of the dictionary; `k` of 0 where there is none."""
    columns: int
    """Columns that the probe reads; 0 for all."""
    scores: NDArray[np.float64]


def told(
    scored: Sequence[Scored],
    truth: Mapping[str, NDArray[np.bool_]],
    documents: NDArray[np.int64],
    *,
    resamples: int,
    seed: int,
) -> list[Json]:
    """A row for each probe, with its interval over documents, and the means over labels.

    `truth` has the labels of held-out rows [rows] by name, `documents` a number from 0 on for each.
    """
    rows: list[Json] = []
    for each in scored:
        label = truth[each.label.name]
        sums = right_of_classes(each.scores, label, documents)
        found = bootstrap_statistic(sums, balanced_accuracy, resamples=resamples, seed=seed)
        rows.append(
            {
                "kind": PROBE,
                "label": each.label.name,
                "label_group": each.label.group,
                **_named(each),
                "balanced_accuracy": found.estimate,
                "balanced_accuracy_low": found.low,
                "balanced_accuracy_high": found.high,
                "auc": area_under_curve(each.scores, label),
                "positive_share": float(label.mean()),
                "rows": len(label),
                "documents": int(documents.max()) + 1,
            }
        )
    return rows + _summed(rows)


def _named(each: Scored) -> Json:
    return {
        "representation": each.kind,
        "num_latents": each.size.num_latents,
        "k": each.size.k,
        "dictionary_seed": each.size.seed,
        "columns": each.columns,
    }


def _summed(rows: Sequence[Json]) -> list[Json]:
    """Means over the labels of a group, and their share of what all coordinates tell.

    share = Σ (accuracy − 1/2) / Σ (accuracy of the dense probe − 1/2), over the labels.
    """
    keys = ("representation", "num_latents", "k", "dictionary_seed", "columns", "label_group")
    groups: dict[tuple[Any, ...], list[Json]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    dense = {row["label"]: row for row in rows if row["representation"] == DENSE}
    floor = {row["label"]: row for row in rows if row["representation"] == FLOOR}
    found = []
    for names, own in groups.items():
        mean = {
            key: float(np.mean([row[key] for row in own])) for key in ("balanced_accuracy", "auc")
        }
        above = sum(dense[row["label"]]["balanced_accuracy"] - 0.5 for row in own)
        alone = np.mean([floor[row["label"]]["balanced_accuracy"] for row in own])
        found.append(
            {
                "kind": PROBES,
                **dict(zip(keys, names, strict=True)),
                **mean,
                "labels": len(own),
                "above_chance": mean["balanced_accuracy"] - 0.5,
                "beyond_token": mean["balanced_accuracy"] - float(alone),
                "share_of_dense": (mean["balanced_accuracy"] - 0.5) * len(own) / above
                if above > 0
                else None,
            }
        )
    return found
