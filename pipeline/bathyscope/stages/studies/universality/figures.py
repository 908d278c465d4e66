"""Plots and tables of the study of universality."""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.pages.data import Number
from bathyscope.pages.series import Series
from bathyscope.pages.study_data import Plot, Table
from bathyscope.stages.studies.aligned_text import MOST_TOKENS
from bathyscope.stages.studies.pair_intervals import mean_of, over_models
from bathyscope.stages.studies.universality.pairs import COMPARISONS
from bathyscope.stages.studies.universality.told import by_spans, judged_pairs, of_kind
from bathyscope.stages.studies.verdicts import Row
from bathyscope.values import Json

_GEOMETRIC = "geometric mean of the two models' parameters, embeddings included"
_FEWEST = 3
"""Pairs and models of a bar: the interval of two is wider than the plot."""
_SHAPES = 6
LATENTS = (
    ("matched_mean", "one to one"),
    ("one_sided_mean", "one-sided"),
    ("partial_mean", "beyond the token, one to one"),
    ("token_floor_mean", "floor: current token alone"),
    ("shuffled_documents_mean", "floor: shuffled documents"),
    ("shuffled_rows_mean", "floor: shuffled rows"),
)
_PAIR = (
    ("comparison", "comparison", "text"),
    ("model_a", "a", "text"),
    ("model_b", "b", "text"),
)
ROWS = (
    ("cka", "debiased CKA"),
    ("svcca", "SVCCA"),
    ("pwcca", "PWCCA"),
    ("cka_shuffled_documents", "floor: debiased CKA, shuffled documents"),
    ("svcca_shuffled_documents", "floor: SVCCA, shuffled documents"),
    ("pwcca_shuffled_documents", "floor: PWCCA, shuffled documents"),
)


CROSSCODER = (
    ("crosscoder_equal", "relative norm 0.3 to 0.7"),
    ("crosscoder_common", "relative norm 0.1 to 0.9"),
    ("crosscoder_equal_shuffled_documents", "floor: 0.3 to 0.7, shuffled documents"),
    ("crosscoder_common_shuffled_documents", "floor: 0.1 to 0.9, shuffled documents"),
)


def plots(rows: Sequence[Row]) -> list[Plot]:
    """Every score by comparison, scores against size, and CKA against the ratio of sizes."""
    own = judged_pairs(rows)
    return [
        _by_comparison(own, LATENTS, "Latents: every score by comparison", "correlation"),
        _by_comparison(own, ROWS, "Rows: every score by comparison", "similarity"),
        _by_comparison(own, CROSSCODER, "Crosscoder: latents of both", "share of latents"),
        _against_size(own, "matched_mean", "Latents matched one to one, against size"),
        _against_size(own, "partial_mean", "The same beyond the current token"),
        _against_size(own, "cka", "Debiased CKA of rows, against size"),
        _against_ratio(own),
    ]


def tables(rows: Sequence[Row]) -> list[Table]:
    """A row per comparison with intervals over models, and one per pair."""
    own = judged_pairs(rows)
    return [
        _comparisons(own, "Latents", LATENTS[:4]),
        _comparisons(own, "Rows", ROWS[:3]),
        *_latents_of_pairs(rows),
        *_rows_of_pairs(rows),
        *_alignment(rows),
        _crosscoders(rows),
    ]


def _by_comparison(
    rows: Sequence[Row], scores: Sequence[tuple[str, str]], title: str, label: str
) -> Plot:
    present = [kind for kind in COMPARISONS if _has(of_kind(rows, kind), scores)]
    # Scores of one comparison stand side by side.
    step = 0.7 / max(len(scores) - 1, 1)
    series = []
    for number, (key, words) in enumerate(scores):
        points: list[tuple[float, float]] = []
        lows: list[Number] = []
        highs: list[Number] = []
        for place, kind in enumerate(present, start=1):
            found = over_models(of_kind(rows, kind), mean_of(key))
            points.append((place - 0.35 + number * step, found.value))
            few = min(found.num_pairs, found.num_models) < _FEWEST
            lows.append(None if few else found.low)
            highs.append(None if few else found.high)
        series.append(
            Series(
                words,
                points,
                colour=number,
                marker=number,
                markers=True,
                line=False,
                lows=lows,
                highs=highs,
            )
        )
    places = "; ".join(f"{i}: {COMPARISONS[kind]}" for i, kind in enumerate(present, start=1))
    return Plot(
        title,
        "comparison, by the numbers below",
        label,
        series,
        log_x=False,
        note=f"{places}. Means over pairs; bars are 95 % intervals over models, of three "
        "pairs and more.",
    )


def _against_size(rows: Sequence[Row], key: str, title: str) -> Plot:
    series = []
    for number, (kind, words) in enumerate(COMPARISONS.items()):
        groups: dict[str, list[tuple[float, float]]] = {}
        for row in of_kind(rows, kind):
            if row.get(key) is not None:
                names = sorted({row["architecture_a"], row["architecture_b"]})
                groups.setdefault(" and ".join(names), []).append((row["parameters"], row[key]))
        for place, (name, points) in enumerate(groups.items()):
            series.append(
                Series(
                    f"{words}, {name}",
                    sorted(points),
                    colour=number,
                    # Colours come again after six: then with another shape.
                    marker=number + number // _SHAPES * 2,
                    dashed=place,
                    markers=True,
                    line=False,
                )
            )
    return Plot(title, _GEOMETRIC, "correlation" if key != "cka" else "debiased CKA", series)


def _against_ratio(rows: Sequence[Row]) -> Plot:
    series = []
    for number, (key, words) in enumerate(ROWS[:3]):
        points = [
            (row["size_ratio"], row[key])
            for row in of_kind(rows, "seeds", "adjacent", "far")
            if row.get(key) is not None
        ]
        series.append(
            Series(words, sorted(points), colour=number, marker=number, markers=True, line=False)
        )
    note = "Pairs of one architecture; a ratio of 1 are two seeds of one size."
    return Plot(
        "Similarity of rows against the ratio of sizes",
        "larger over smaller model, parameters",
        "similarity",
        series,
        note=note,
    )


def _comparisons(rows: Sequence[Row], title: str, scores: Sequence[tuple[str, str]]) -> Table:
    found: list[Json] = []
    for kind, words in COMPARISONS.items():
        own = of_kind(rows, kind)
        if not _has(own, scores):
            continue
        line: Json = {"comparison": words, "pairs": len(own)}
        for key, _ in scores:
            spread = over_models(own, mean_of(key))
            line[key] = (spread.value, spread.low, spread.high)
        found.append(line)
    columns = [("comparison", "comparison", "text"), ("pairs", "pairs", "number")]
    columns += [(key, heading, "interval") for key, heading in scores]
    return Table(f"{title}: means by comparison, intervals over models", columns, found)


def _latents_of_pairs(rows: Sequence[Row]) -> list[Table]:
    told = [_with(row, "matched", "matched_mean") for row in _told(rows)]
    scores = (
        ("num_latents_a", "F of a", "number"),
        ("num_latents_b", "F of b", "number"),
        ("matched", "one to one", "interval"),
        ("matched_mean_by_firing", "by firing", "number"),
        ("matched_share_above_0.5", "above 0.5", "percent"),
        ("matched_share_above_0.7", "above 0.7", "percent"),
    )
    floors = (
        ("one_sided_mean", "one-sided", "number"),
        ("one_sided_share_above_0.7", "above 0.7", "percent"),
        ("partial_mean", "beyond the token", "number"),
        ("token_floor_mean", "token floor", "number"),
        ("shuffled_documents_mean", "shuffled documents", "number"),
        ("shuffled_rows_mean", "shuffled rows", "number"),
    )
    title = "Latents of each pair; intervals over documents, with the partners held"
    return [
        Table(title, (*_PAIR, *scores), told),
        Table("Latents of each pair: one-sided, and floors", (*_PAIR, *floors), told),
    ]


def _rows_of_pairs(rows: Sequence[Row]) -> list[Table]:
    scores = (
        ("size_ratio", "ratio of sizes", "number"),
        ("cka_interval", "debiased CKA", "interval"),
        ("svcca_interval", "SVCCA", "interval"),
        ("pwcca_interval", "PWCCA", "interval"),
    )
    floors = (
        ("cka_biased", "biased CKA", "number"),
        ("cka_gaussian_floor", "its Gaussian floor", "number"),
        ("svcca_floor", "floor of SVCCA", "number"),
        ("cka_shuffled_documents", "CKA, shuffled documents", "number"),
        ("svcca_shuffled_documents", "SVCCA, shuffled documents", "number"),
        ("pwcca_shuffled_documents", "PWCCA, shuffled documents", "number"),
    )
    told = [row for row in _told(rows) if row["model_a"] != row["model_b"]]
    for name in ("cka", "svcca", "pwcca"):
        told = [_with(row, name, name, f"{name}_interval") for row in told]
    return [
        Table("Rows of each pair; intervals over documents", (*_PAIR, *scores), told),
        Table("Rows of each pair: biased CKA, and floors", (*_PAIR, *floors), told),
    ]


def _alignment(rows: Sequence[Row]) -> list[Table]:
    """How pairs were aligned, where that is by spans of text."""
    columns = (
        ("aligned_by", "aligned by", "text"),
        ("rows", "held-out spans", "number"),
        ("documents", "documents", "number"),
        ("tokens_per_span_a", "tokens of a in a span", "number"),
        ("tokens_per_span_b", "tokens of b", "number"),
        ("documents_recoded", "documents that encode otherwise", "number"),
        ("documents_differing", "documents of other texts", "number"),
        ("spans_long", f"spans of more than {MOST_TOKENS} tokens", "number"),
        ("spans_masked", "spans with a first position", "number"),
    )
    told = by_spans(_told(rows))
    title = "How each pair was aligned, and what was left out"
    return [Table(title, (*_PAIR, *columns), told)] if told else []


def _crosscoders(rows: Sequence[Row]) -> Table:
    columns = (
        ("crosscoder_fired", "latents that fire", "number"),
        ("crosscoder_fvu_a", "FVU of a", "number"),
        ("crosscoder_fvu_b", "FVU of b", "number"),
        ("crosscoder_equal", "0.3 to 0.7", "percent"),
        ("crosscoder_equal_shuffled_documents", "its floor", "percent"),
        ("crosscoder_a_by_norm", "a alone, by norm", "percent"),
        ("crosscoder_a_exclusive", "by scaling too", "percent"),
        ("crosscoder_b_by_norm", "b alone, by norm", "percent"),
        ("crosscoder_b_exclusive", "by scaling too", "percent"),
    )
    told = [row for row in _told(rows) if row.get("crosscoder_equal") is not None]
    title = "Crosscoder of each pair: latents by relative norm; scaling wants sides of one width"
    if failed := [row["subject"] for row in rows if row.get("crosscoder_note")]:
        title += f"; the training diverged for {', '.join(failed)}"
    return Table(title, (*_PAIR, *columns), told)


def _told(rows: Sequence[Row]) -> list[Json]:
    order = list(COMPARISONS)
    own = sorted(rows, key=lambda row: (order.index(row["comparison"]), row["parameters"]))
    return [{**row, "comparison": COMPARISONS[row["comparison"]]} for row in own]


def _with(row: Row, ends: str, value: str, name: str | None = None) -> Json:
    three = (row.get(value), row.get(f"{ends}_low"), row.get(f"{ends}_high"))
    return {**row, name or ends: three}


def _has(rows: Sequence[Row], scores: Sequence[tuple[str, str]]) -> bool:
    return any(row.get(key) is not None for row in rows for key, _ in scores)
