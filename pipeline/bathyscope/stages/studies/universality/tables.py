"""Tables of the study of universality: a row per comparison, and one per pair."""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.pages.study_data import Table
from bathyscope.stages.studies.aligned_text import MOST_TOKENS
from bathyscope.stages.studies.pair_intervals import mean_of, over_models
from bathyscope.stages.studies.universality.figures import LATENTS, ROWS, has_scores
from bathyscope.stages.studies.universality.pairs import COMPARISONS
from bathyscope.stages.studies.universality.told import by_spans, judged_pairs, of_kind
from bathyscope.stages.studies.verdicts import Row
from bathyscope.values import Json

_PAIR = (
    ("comparison", "comparison", "text"),
    ("model_a", "a", "text"),
    ("model_b", "b", "text"),
)


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


def _comparisons(rows: Sequence[Row], title: str, scores: Sequence[tuple[str, str]]) -> Table:
    found: list[Json] = []
    for kind, words in COMPARISONS.items():
        own = of_kind(rows, kind)
        if not has_scores(own, scores):
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
