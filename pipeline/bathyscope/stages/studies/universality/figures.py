"""Plots of the study of universality."""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.pages.data import Number
from bathyscope.pages.series import Series
from bathyscope.pages.study_data import Plot
from bathyscope.stages.studies.pair_intervals import mean_of, over_models
from bathyscope.stages.studies.universality.pairs import COMPARISONS
from bathyscope.stages.studies.universality.told import judged_pairs, of_kind
from bathyscope.stages.studies.verdicts import Row

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


def _by_comparison(
    rows: Sequence[Row], scores: Sequence[tuple[str, str]], title: str, label: str
) -> Plot:
    present = [kind for kind in COMPARISONS if has_scores(of_kind(rows, kind), scores)]
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


def has_scores(rows: Sequence[Row], scores: Sequence[tuple[str, str]]) -> bool:
    """Whether any pair has one of the scores."""
    return any(row.get(key) is not None for row in rows for key, _ in scores)
