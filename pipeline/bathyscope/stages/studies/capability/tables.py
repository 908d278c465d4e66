"""Tables of the study of capability: techniques at a glance, labels, and every model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bathyscope.pages.study_data import Table
from bathyscope.stages.studies.capability.probe_figures import DENSE, FLOOR, PROBE
from bathyscope.stages.studies.capability.probing import KS, LEFT_OUT, SHUFFLED
from bathyscope.stages.studies.capability.rivals import Rival, rivals_table
from bathyscope.stages.studies.capability.shapes import TENTH
from bathyscope.stages.studies.capability.techniques import TECHNIQUES
from bathyscope.stages.studies.capability.verdicts import Judged, over_capability, over_size
from bathyscope.stages.studies.coders import DICTIONARY, NEURONS, PCA, RANDOM
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.protocols import EQUAL_RATIO
from bathyscope.stages.studies.verdicts import Row, by_architecture, judged, means
from bathyscope.studies.regression import Trend
from bathyscope.studies.sweet_spot import Comparison
from bathyscope.studies.token_labels import LABELS

_DECIMALS = 3
_SHAPES = ("constant", "linear", "monotone", "quadratic")


def tables(
    members: Sequence[Member],
    rows: Sequence[Row],
    found: Sequence[Judged],
    rivals: Sequence[Rival],
    bits: Mapping[str, float],
) -> list[Table]:
    """Techniques at a glance, with their rivals and shapes, labels of probes, and every model."""
    made = [
        _glance(found),
        rivals_table(rivals),
        _shapes(found),
        _labels(members, rows),
        _models(members, rows, bits),
    ]
    return [table for table in made if table.rows]


def _glance(found: Sequence[Judged]) -> Table:
    columns = (
        ("architecture", "architecture", "text"),
        ("technique", "technique", "text"),
        ("low", "smallest size", "number"),
        ("high", "largest size", "number"),
        ("size", "per tenfold parameters", "interval"),
        ("capability", "per tenth fewer bits per byte", "interval"),
        ("middle", "middle over sizes", "text"),
        ("middle_capability", "middle over capability", "text"),
    )
    return Table("Every technique at a glance", columns, [_glanced(each) for each in found])


def _glanced(each: Judged) -> dict[str, Any]:
    ordered = sorted(each.values, key=lambda v: v.member.parameters)
    smallest, largest = (ordered[i].member.parameters for i in (0, -1))
    return {
        "architecture": each.architecture,
        "technique": each.technique.short,
        "low": float(np.mean([v.value for v in ordered if v.member.parameters == smallest])),
        "high": float(np.mean([v.value for v in ordered if v.member.parameters == largest])),
        "size": _interval(each.shapes.trend, math.log(10)),
        "capability": _interval(each.shapes.capability_trend, TENTH),
        # Why none is named stands with the verdict.
        "middle": over_size(each.shapes) if each.shapes.over_size.sweet_spot else "none named",
        "middle_capability": over_capability(each.shapes)
        if each.shapes.over_capability and each.shapes.over_capability.sweet_spot
        else "none named",
    }


def _interval(shown: Trend, scale: float) -> tuple[float, float, float]:
    line = shown.slope
    return scale * line.estimate, scale * line.low, scale * line.high


def _shapes(found: Sequence[Judged]) -> Table:
    columns = [
        ("architecture", "architecture", "text"),
        ("technique", "technique", "text"),
        ("over", "over", "text"),
        ("best", "lowest AICc", "text"),
        *((name, f"weight, {name}", "number") for name in _SHAPES),
        ("share", "resamples in which the parabola leads", "percent"),
        ("chance", "leads as large by chance", "percent"),
    ]
    rows = []
    for each in found:
        for over, comparison in (
            ("size", each.shapes.over_size),
            ("capability", each.shapes.over_capability),
        ):
            if comparison is not None:
                named = {"architecture": each.architecture, "technique": each.technique.short}
                rows.append({**named, "over": over, **_compared(comparison)})
    return Table("Shapes by AICc: weights, and how sure the parabola is", columns, rows)


def _compared(comparison: Comparison) -> dict[str, Any]:
    return {
        "best": comparison.best,
        **comparison.weights,
        "share": comparison.quadratic_share,
        "chance": comparison.chance,
    }


def _labels(members: Sequence[Member], rows: Sequence[Row]) -> Table:
    """Balanced accuracy of each label at the smallest and largest model of the most sizes."""
    own = [row for row in rows if row["kind"] == PROBE]
    names = {row["member"] for row in own}
    alike = means([m for m in judged(members) if m.name in names], own, "rows", lambda row: True)
    groups = by_architecture(alike)
    if not groups:
        return Table("", (), [])
    ordered = sorted(next(iter(groups.values())), key=lambda v: v.member.parameters)
    ends = [ordered[0].member, ordered[-1].member]
    most = max(KS)
    probes = (
        ("dense", "all coordinates", DENSE, 0),
        ("one", "one latent", DICTIONARY, min(KS)),
        ("few", f"{most} latents", DICTIONARY, most),
        ("neurons", f"{most} coordinates", NEURONS, most),
        ("pca", f"{most} of PCA", PCA, most),
        ("random", f"{most} of a random dictionary", RANDOM, most),
        ("shuffled", "shuffled labels", SHUFFLED, most),
    )
    columns = [
        ("label", "label", "text"),
        ("share", "rows that have it", "percent"),
        ("floor", "current token alone", "number"),
    ]
    for key, words, *_ in probes:
        columns += [(f"{key}{i}", f"{words}, {m.name}", "number") for i, m in enumerate(ends)]
    left_out = sorted({row["label"] for row in rows if row["kind"] == LEFT_OUT})
    title = (
        "Balanced accuracy of probes on held-out rows, latents at equal F / d and L0 / d; left out "
        f"for too few rows of a class: {', '.join(left_out) or 'none'}"
    )
    found = []
    for label in LABELS:
        here = [row for row in own if row["label"] == label.name]
        if not here:
            continue
        shown: dict[str, Any] = {"label": label.words, "share": here[0]["positive_share"]}
        # The token alone is the same for all models.
        shown["floor"] = _accuracy(here, ends[0], FLOOR, 0)
        for key, _, kind, count in probes:
            for i, member in enumerate(ends):
                shown[f"{key}{i}"] = _accuracy(here, member, kind, count)
        found.append(shown)
    return Table(title, columns, found)


def _accuracy(rows: Sequence[Row], member: Member, kind: str, columns: int) -> float | None:
    values = [
        row["balanced_accuracy"]
        for row in rows
        if row["member"] == member.name
        and (row["representation"], row["columns"]) == (kind, columns)
        and EQUAL_RATIO in row["protocols"]
    ]
    return round(float(np.mean(values)), _DECIMALS) if values else None


def _models(members: Sequence[Member], rows: Sequence[Row], bits: Mapping[str, float]) -> Table:
    known = [m for m in members if m.name in bits]
    columns = [("member", "model", "text"), ("bits", "bits per byte", "number")]
    columns += [(f"value{i}", each.short, "number") for i, each in enumerate(TECHNIQUES)]
    found = []
    for member in known:
        shown: dict[str, Any] = {"member": member.name, "bits": round(bits[member.name], _DECIMALS)}
        for i, technique in enumerate(TECHNIQUES):
            values = technique.values([member], rows)
            shown[f"value{i}"] = round(values[0].value, _DECIMALS) if values else None
        found.append(shown)
    return Table("Every model", columns, found)
