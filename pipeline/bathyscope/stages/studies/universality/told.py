"""How a figure over pairs of models becomes a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.pair_intervals import Spread, mean_of, models_of, over_models
from bathyscope.stages.studies.paired_spans import SPANS
from bathyscope.stages.studies.verdicts import Row, sign_of


def judged_pairs(rows: Sequence[Row]) -> list[Row]:
    """Pairs that carry verdicts: neither model overfitted."""
    return [row for row in rows if not row["overfitted"]]


def of_kind(rows: Sequence[Row], *comparisons: str) -> list[Row]:
    """Rows of some comparisons."""
    return [row for row in rows if row["comparison"] in comparisons]


def told(rows: Sequence[Row], key: str, *comparisons: str) -> str:
    """Mean of a column over pairs of some comparisons, with its interval."""
    return over_models(of_kind(rows, *comparisons), mean_of(key)).told()


def by_spans(rows: Sequence[Row]) -> list[Row]:
    """Rows of pairs that were compared by spans of text."""
    return [row for row in rows if row.get("aligned_by") == SPANS]


def alignment(rows: Sequence[Row]) -> str:
    """How pairs that were compared by spans were aligned, and what was left out; else nothing."""
    some = by_spans(rows)
    if not some:
        return ""
    spans, documents = _range(some, "rows"), _range(some, "documents")
    tokens = [row[f"tokens_per_span_{side}"] for row in some for side in "ab"]
    return (
        f"{spans} held-out spans of text, of {documents} documents, {min(tokens):.2f} to "
        f"{max(tokens):.2f} tokens each; {_dropped(some)} that tokenizers do not agree on, "
        f"{_range(some, 'spans_long')} long spans and {_range(some, 'spans_masked')} with a first "
        "position were left out."
    )


def counted_spans(rows: Sequence[Row]) -> str:
    """The same in short: how many, and documents that tokenizers do not agree on."""
    some = by_spans(rows)
    return (
        f"By {_range(some, 'rows')} spans of text of {_range(some, 'documents')} documents; "
        f"{_dropped(some)} left out."
    )


def _dropped(rows: Sequence[Row]) -> str:
    worst = max(row["documents_recoded"] + row["documents_differing"] for row in rows)
    return f"{worst} {'document' if worst == 1 else 'documents'}"


def _range(rows: Sequence[Row], key: str) -> str:
    values = sorted({row[key] for row in rows})
    return " to ".join(f"{value:,}" for value in dict.fromkeys((values[0], values[-1])))


def signed(claim: str, found: Spread, **words: Any) -> Verdict:
    """A claim that a figure is above 0."""
    return verdict(claim, sign(found), found, **words)


def sign(found: Spread) -> str:
    """The answer to whether a figure is above 0."""
    return sign_of(found.value, found.low, found.high)


def verdict(claim: str, answer: str, found: Spread, *, doubt: str, **words: Any) -> Verdict:
    """A claim with its figure, and how many models are behind it."""
    pairs = "1 pair" if found.num_pairs == 1 else f"{found.num_pairs} pairs"
    count = f"{pairs} of {found.num_models} models, each left out in turn with all of its pairs."
    if math.isnan(found.value):
        count = f"{pairs}."
    elif math.isnan(found.low):
        count = f"{pairs} of {found.num_models} models, too few for an interval."
    return Verdict(
        claim=claim,
        answer=answer,
        value=found.value,
        low=found.low,
        high=found.high,
        doubt=f"{count} {doubt}",
        **words,
    )


def seeded(rows: Sequence[Row], comparison: str, *, same: bool) -> str:
    """Mean of the match over pairs of one seed, or of two."""
    some = [r for r in rows if r["comparison"] == comparison and r["same_seed"] == same]
    return over_models(some, mean_of("matched_mean")).told()


def nothing(pairs: Sequence[Row]) -> Spread:
    """No figure, of these pairs."""
    models = {name for row in pairs for name in models_of(row)}
    return Spread(math.nan, math.nan, math.nan, len(pairs), len(models))
