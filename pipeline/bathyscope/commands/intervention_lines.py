"""What a person reads of a report on interventions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from bathyscope.attribution.interventions.effects import Prediction
from bathyscope.attribution.interventions.report import Continuation, Report, Variant
from bathyscope.values import Json

_WIDTH = 96


def lines_of(report: Report, facts: Mapping[int, Json]) -> Iterator[str]:
    """The lines of a report; `facts` are rows of the run's table of features by latent."""
    yield ""
    yield f"prompt     {len(report.tokens)} tokens: {_quoted(report.prompt)}"
    for latent, row in facts.items():
        yield (
            f"latent     {latent}: active on {row['density']:.2%} of tokens, "
            f"mean {row['mean']:.3g} where active, largest {row['max']:.3g}"
        )
    yield from _table(report)
    yield from _predictions(report)
    yield from _continuations(report)


def _table(report: Report) -> Iterator[str]:
    """Side effects, a row for each variant."""
    measured = next((v.held_out for v in report.variants if v.held_out is not None), None)
    heads = ["variant", "prompt ΔCE", "prompt KL"]
    heads += ["held-out ΔCE", "held-out KL"] if measured is not None else []
    rows = [heads]
    for variant in report.variants:
        delta = variant.effect.mean_delta_ce
        row = [variant.name, "-" if delta is None else f"{delta:+.4f}"]
        row.append(f"{variant.effect.mean_kl:.4f}")
        if variant.held_out is not None:
            row += [f"{variant.held_out.delta_ce:+.4f}", f"{variant.held_out.kl:.4f}"]
        rows.append(row)
    yield "\nside effects, nats per token"
    yield from _aligned(rows)
    if measured is not None:
        yield (
            f"held out: {measured.num_tokens:,} tokens of {measured.num_documents} documents, "
            f"clean CE {measured.clean_ce:.3f}; changed at all positions but a sequence's first"
        )


def _predictions(report: Report) -> Iterator[str]:
    yield "\nmost probable next tokens after the prompt"
    first = report.variants[0].effect
    rows = [["clean", *_shares(report, first.before, clean=True)]]
    rows += [[v.name, *_shares(report, v.effect.after, clean=False)] for v in report.variants]
    yield from _aligned(rows, numbers=False)


def _shares(report: Report, predictions: Sequence[Prediction], *, clean: bool) -> list[str]:
    return [
        f"{_quoted(report.vocabulary[each.token])} {each.clean if clean else each.changed:.3f}"
        for each in predictions
    ]


def _continuations(report: Report) -> Iterator[str]:
    if report.clean is None:
        return
    yield "\ncontinuation"
    width = max(len(name) for name in ("clean", *(v.name for v in report.variants)))
    yield _continued("clean", report.clean, width)
    for variant in report.variants:
        yield _continued(variant.name, variant.continuation, width)
    for variant in report.variants:
        yield from _stopped(variant)


def _continued(name: str, made: Continuation | None, width: int) -> str:
    text = "" if made is None else made.text
    lines = textwrap.wrap(_quoted(text), _WIDTH - width, drop_whitespace=False) or [""]
    return "\n".join(
        f"{name if number == 0 else '':{width}s}  {line}" for number, line in enumerate(lines)
    )


def _stopped(variant: Variant) -> Iterator[str]:
    if variant.continuation is not None and not variant.continuation.tokens:
        yield f"{variant.name}: ends at once, the first token is the end of the text"


def _aligned(rows: Sequence[Sequence[str]], *, numbers: bool = True) -> Iterator[str]:
    """Rows in columns, the first to the left, numbers to the right."""
    columns = max(map(len, rows))
    filled = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in filled) for column in range(columns)]
    for row in filled:
        cells = [
            cell.rjust(width) if numbers and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _quoted(text: str) -> str:
    """A text in quotes whose line ends and odd characters are seen."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"'{shown}'"
