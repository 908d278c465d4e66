"""Plots and tables of what can be removed along the training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bathyscope.config import Config
from bathyscope.pages.series import Series
from bathyscope.pages.study_data import Plot, Table
from bathyscope.stages.studies.equal_loss import pairs_table
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import Row, first_seed, judged
from bathyscope.stages.studies.waste.along import METHODS_ALONG, measured_along
from bathyscope.stages.studies.waste.equal_training import pairs_at_loss
from bathyscope.stages.studies.waste.measures import SUMMARY
from bathyscope.stages.studies.waste.methods import Method


def plots_along(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Plot]:
    """The removable share of each method against training tokens per parameter."""
    found = [_plot(config, members, rows, method) for method in METHODS_ALONG]
    return [plot for plot in found if plot.series]


def tables_along(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Table]:
    """Every checkpoint that was measured, and pairs at equal loss."""
    named = [
        (f"removable by {method.words}", pairs_at_loss(members, rows, method))
        for method in METHODS_ALONG
    ]
    found = [_checkpoints(config, members, rows), pairs_table(named)]
    return [table for table in found if table.rows]


def _plot(config: Config, members: Sequence[Member], rows: Sequence[Row], method: Method) -> Plot:
    trained = judged(members)
    sizes = sorted({m.parameters for m in trained})
    kinds = list(dict.fromkeys(m.architecture for m in trained))
    series = []
    for member in first_seed(trained):
        own = list(measured_along(rows, member, method.name))
        if not own or member.tokens is None:
            continue
        own += [r for r in rows if r["kind"] == SUMMARY and _is(r, member, method)]
        tokens = [r.get("state_tokens") or member.tokens for r in own]
        number = sizes.index(member.parameters)
        series.append(
            Series(
                member.name,
                [(t / member.parameters, r["removable"]) for t, r in zip(tokens, own, strict=True)],
                colour=number,
                marker=number,
                dashed=kinds.index(member.architecture),
                markers=True,
                lows=[r["removable_low"] for r in own],
                highs=[r["removable_high"] for r in own],
            )
        )
    control = ", the control" if method.control else ""
    return Plot(
        f"Along the training, share removable: {method.words}{control}",
        "training tokens per parameter",
        f"share removable at {config.study.budget_nats:g} nats",
        series,
        note="Models are at equal training on a vertical line. The last point of each is that of "
        "its last weights. First seed; bars are 95 % intervals over documents.",
    )


def _checkpoints(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> Table:
    columns = [
        ("member", "model", "text"),
        ("tokens", "after tokens", "number"),
        ("per", "a parameter", "number"),
        ("loss", "loss, nats", "number"),
        *((m.name, m.words, "interval") for m in METHODS_ALONG),
    ]
    found = [row for member in members for row in _rows_of(member, rows)]
    title = f"Share removable at {config.study.budget_nats:g} nats along the training"
    return Table(title, columns, found)


def _rows_of(member: Member, rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    by_method = {
        m.name: {row["state_tokens"]: row for row in measured_along(rows, member, m.name)}
        for m in METHODS_ALONG
    }
    for tokens in sorted({t for own in by_method.values() for t in own}):
        known = {name: own[tokens] for name, own in by_method.items() if tokens in own}
        shown: dict[str, object] = {
            name: tuple(round(row[f"removable{end}"], 3) for end in ("", "_low", "_high"))
            for name, row in known.items()
        }
        loss = next(iter(known.values()))["clean_loss"]
        yield {
            "member": member.name,
            "tokens": tokens,
            "per": tokens / member.parameters,
            "loss": loss,
            **shown,
        }


def _is(row: Row, member: Member, method: Method) -> bool:
    return bool(row["member"] == member.name and row["method"] == method.name)
