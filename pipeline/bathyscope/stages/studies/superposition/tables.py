"""Tables of the study of superposition: every model, and every pair at equal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bathyscope.pages.study_data import Table
from bathyscope.stages.studies.equal_loss import Pair, pairs_table
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.superposition.figures import Z, of
from bathyscope.stages.studies.superposition.quantities import Quantity
from bathyscope.stages.studies.verdicts import Row


def tables(
    members: Sequence[Member], rows: Sequence[Row], pairs: Sequence[tuple[Quantity, list[Pair]]]
) -> list[Table]:
    """A row per model, and every pair at equal loss."""
    named = [(quantity.title, own) for quantity, own in pairs]
    return [table for table in (_models(members, rows), pairs_table(named)) if table.rows]


def _models(members: Sequence[Member], rows: Sequence[Row]) -> Table:
    found = []
    for member in members:
        own = {
            kind: next((r for r in rows if r["member"] == member.name and of(kind)(r)), {})
            for kind in ("unembedding", "unembedding_centred", "unembedding_frequency",
                         "mlp_out", "layer_out", "activations")
        }  # fmt: skip
        logits, spaces = own["unembedding_centred"], own["activations"]
        decoders = [r for r in rows if r["member"] == member.name and of("dictionary")(r)]
        found.append(
            {
                "member": member.name,
                "d": spaces.get("d"),
                "loss": spaces.get("loss"),
                "raw": own["unembedding"].get("overlap_times_width"),
                "centred": logits.get("overlap_times_width"),
                "frequency": own["unembedding_frequency"].get("overlap_times_width"),
                "welch": logits.get("welch_times_width"),
                "dimensionality": logits.get("dimensionality_mean"),
                "writes": (own["mlp_out"] or own["layer_out"]).get("overlap_times_width"),
                "decoder": _mean(decoders, "dimensionality_mean"),
                "ratio": _interval(spaces, "participation_ratio_share"),
                "rank": _interval(spaces, "effective_rank_eigenvalues_share"),
                "stable": _interval(spaces, "stable_rank_share"),
                "two_nn": tuple(spaces.get(k) for k in ("two_nn", "two_nn_low", "two_nn_high")),
            }
        )
    columns = (
        ("member", "model", "text"),
        ("d", "d", "number"),
        ("loss", "loss, nats", "number"),
        ("raw", "overlap × d of unembedding rows", "number"),
        ("centred", "without their mean", "number"),
        ("frequency", "also weighted by token frequency", "number"),
        ("welch", "least possible", "number"),
        ("dimensionality", "mean D of these", "number"),
        ("writes", "overlap × d of MLP out", "number"),
        ("decoder", "mean D of decoder rows", "number"),
        ("ratio", "participation ratio / d", "interval"),
        ("rank", "effective rank / d", "interval"),
        ("stable", "stable rank / d", "interval"),
        ("two_nn", "TwoNN", "interval"),
    )
    return Table("Every model at its final weights", columns, found)


def _interval(row: Row, key: str) -> tuple[Any, Any, Any]:
    value, error = row.get(key), row.get(f"{key}_error")
    if value is None or error is None:
        return value, None, None
    return value, value - Z * error, value + Z * error


def _mean(rows: Sequence[Row], key: str) -> float | None:
    values = [r[key] for r in rows if r.get(key) is not None]
    return float(np.mean(values)) if values else None
