"""Plots and tables of the study of wasted weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bathyscope.config import Config
from bathyscope.pages.lines import Reference
from bathyscope.pages.series import Series
from bathyscope.pages.study_data import Plot, Table
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import Row, judged
from bathyscope.stages.studies.waste.measures import COUNTS, POINT, SUMMARY
from bathyscope.stages.studies.waste.methods import (
    BITS,
    BLOCKS,
    METHODS,
    STORED_BITS,
    WEIGHTS,
    Method,
)
from bathyscope.stages.studies.waste.trials import KL

_BARS = "Mean over seeds; bars are 95 % intervals over documents, the widest of the seeds."
_DECIMALS = 3
_SHARES = {
    "weights": "share of the prunable weights removed",
    "blocks": "share of the blocks' parameters passed by",
    "bits": f"share removed of the bits of prunable weights, of {STORED_BITS} each",
}


def plots(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Plot]:
    """The removable share against size, then what each method costs at every share."""
    carrying = judged(members)
    found = [
        _removable(config, [m for m in carrying if m.architecture == name], name, rows)
        for name in dict.fromkeys(m.architecture for m in carrying)
    ]
    found += [
        _cost(config, carrying, rows, method)
        for method in METHODS
        if any(r["kind"] == POINT and r["method"] == method.name for r in rows)
    ]
    return found


def _removable(config: Config, members: Sequence[Member], name: str, rows: Sequence[Row]) -> Plot:
    series = []
    # Controls are hollow and dashed, so that methods have the six colours for themselves.
    ordered = sorted(METHODS, key=lambda m: m.control)
    for number, method in enumerate(ordered):
        points = []
        for alike in _by_size(members):
            own = _rows_of(alike, rows, SUMMARY, method)
            if own:
                low, high = _least(own, "removable_low"), _most(own, "removable_high")
                points.append((alike[0].parameters, _mean(own, "removable"), low, high))
        series.append(
            Series(
                method.words + (" (control)" if method.control else ""),
                [(x, y) for x, y, _, _ in points],
                colour=number,
                marker=number,
                dashed=int(method.control),
                opacity=0.6 if method.control else 1.0,
                markers=True,
                lows=[low for *_, low, _ in points],
                highs=[high for *_, high in points],
            )
        )
    return Plot(
        f"{name}: share removable at {config.study.budget_nats:g} nats",
        "parameters, embeddings included",
        "removable share",
        series,
        note=f"{_BARS} Weights and bits: of the prunable weights; blocks: of the blocks' "
        "parameters. Shares of different kinds are not of the same thing.",
    )


def _cost(config: Config, members: Sequence[Member], rows: Sequence[Row], method: Method) -> Plot:
    architectures = list(dict.fromkeys(m.architecture for m in members))
    sizes = sorted({m.parameters for m in members})
    series = []
    for alike in _by_size(members):
        own = [r for r in _rows_of(alike, rows, POINT, method) if r["share"] > 0]
        groups = _grouped(own, lambda r: _place(r, method))
        first = alike[0]
        series.append(
            Series(
                f"{first.architecture} {first.parameters:,}",
                [(x, _mean(same, "rise")) for x, same in groups.items()],
                colour=sizes.index(first.parameters),
                marker=sizes.index(first.parameters),
                dashed=architectures.index(first.architecture),
                markers=True,
                lows=[_least(same, "rise_low") for same in groups.values()],
                highs=[_most(same, "rise_high") for same in groups.values()],
            )
        )
    label = "bits of each weight" if method.kind == BITS else _SHARES[method.kind]
    return Plot(
        f"{rise_words(rows)} after removal: {method.words}"
        + (", the control" if method.control else ""),
        label,
        f"{rise_words(rows)}, {'nats per picture' if _of_pictures(rows) else 'nats per token'}",
        series,
        log_x=False,
        log_y=True,
        note=_BARS,
        references=[Reference("budget", config.study.budget_nats)],
    )


def tables(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Table]:
    """What each model consists of, what is removable of it, and the mean cost of each method."""
    known = [m for m in members if any(r["member"] == m.name for r in rows)]
    budget = f"{config.study.budget_nats:g} nats"
    found = [_counts_table(known, rows)]
    for kinds in ((WEIGHTS,), (BLOCKS, BITS)):
        methods = [m for m in METHODS if m.kind in kinds]
        what = " and ".join(kinds)
        for key, title in (
            ("removable", f"Share of {what} removable at {budget}, interval over documents"),
            ("area", f"Mean {rise_words(rows)} over all shares of {what}, nats"),
        ):
            columns = [("member", "model", "text")]
            columns += [(m.name, m.words.removeprefix("dropping "), "interval") for m in methods]
            if key == "removable":
                columns.append(("least", "at least, by", "text"))
            found.append(Table(title, columns, [_summaries(m, rows, key, methods) for m in known]))
    return found


def _counts_table(members: Sequence[Member], rows: Sequence[Row]) -> Table:
    return Table(
        "Parameters of each model, tied ones once",
        (
            ("member", "model", "text"),
            ("prunable", "prunable", "number"),
            ("embedding", "embeddings and head", "number"),
            ("other", "other", "number"),
            ("share", "prunable", "percent"),
            ("clean", f"clean {'KL' if _of_pictures(rows) else 'loss'}, nats", "number"),
            ("left_out", "matrices among the other", "text"),
        ),
        [_counts(m, rows) for m in members],
    )


def rise_words(rows: Sequence[Row]) -> str:
    """What the loss of these models is called when it rises."""
    return "KL" if _of_pictures(rows) else "ΔCE"


def _counts(member: Member, rows: Sequence[Row]) -> dict[str, object]:
    row = next(r for r in rows if r["member"] == member.name and r["kind"] == COUNTS)
    total = row["prunable"] + row["embedding"] + row["other"]
    shown = {key: row[key] for key in ("prunable", "embedding", "other")}
    return {
        "member": member.name,
        **shown,
        "share": row["prunable"] / total,
        "clean": row["clean_loss"],
        "left_out": row["left_out"] or "none",
    }


def _summaries(
    member: Member, rows: Sequence[Row], key: str, methods: Sequence[Method]
) -> dict[str, object]:
    found: dict[str, object] = {"member": member.name}
    least = []
    for method in methods:
        for row in _rows_of([member], rows, SUMMARY, method):
            ends = (row[key], row[f"{key}_low"], row[f"{key}_high"])
            found[method.name] = tuple(None if v is None else round(v, _DECIMALS) for v in ends)
            if row["at_least"]:
                least.append(method.words.removeprefix("dropping "))
    told = "all" if len(least) == len(methods) else ", ".join(least)
    return {**found, "least": told or "none"}


def _place(row: Row, method: Method) -> float:
    """Where a point stands: bits, or a share; that of blocks is nearly the same for all seeds."""
    return float(row["bits"] if method.kind == BITS else round(row["share"], 6))


def _by_size(members: Sequence[Member]) -> list[list[Member]]:
    """Members that differ in their seed alone, by rising size."""
    found: dict[tuple[str, int], list[Member]] = {}
    for member in sorted(members, key=lambda m: (m.architecture, m.parameters)):
        found.setdefault((member.architecture, member.parameters), []).append(member)
    return list(found.values())


def _rows_of(
    members: Sequence[Member], rows: Sequence[Row], kind: str, method: Method
) -> list[Row]:
    names = {m.name for m in members}
    return [
        r for r in rows if r["kind"] == kind and r["method"] == method.name and r["member"] in names
    ]


def _grouped(rows: Sequence[Row], key: Callable[[Row], float]) -> dict[float, list[Row]]:
    found: dict[float, list[Row]] = {}
    for row in sorted(rows, key=key):
        found.setdefault(key(row), []).append(row)
    return found


def _of_pictures(rows: Sequence[Row]) -> bool:
    return any(r["measure"] == KL for r in rows)


def _mean(rows: Sequence[Row], key: str) -> float:
    return float(np.mean([r[key] for r in rows]))


def _least(rows: Sequence[Row], key: str) -> float | None:
    return min((r[key] for r in rows if r[key] is not None), default=None)


def _most(rows: Sequence[Row], key: str) -> float | None:
    return max((r[key] for r in rows if r[key] is not None), default=None)
