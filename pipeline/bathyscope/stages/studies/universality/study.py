"""Study: do models of other sizes, seeds and architectures represent the same things?

Pairs of models read the same held-out text at the same relative depth. Their rows are compared by
debiased CKA, SVCCA and PWCCA, their latents by a match one to one. Every score stands between its
ceiling, two dictionaries or two seeds of one model, and its floors, shuffled text and what the
current token alone says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from bathyscope.config import Config
from bathyscope.pages.study_data import StudyPage
from bathyscope.stages.studies.corpora import corpora_of
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import Size, width_of
from bathyscope.stages.studies.pair_intervals import NOT_MEASURED, kind_of
from bathyscope.stages.studies.paired_spans import SPANS as BY_SPANS
from bathyscope.stages.studies.protocols import sizes_of
from bathyscope.stages.studies.study import Subject, Tell
from bathyscope.stages.studies.universality.figures import plots
from bathyscope.stages.studies.universality.measures import measure_pair
from bathyscope.stages.studies.universality.pairs import (
    ADJACENT,
    ARCHITECTURES,
    COMPARISONS,
    DICTIONARIES,
    FAR,
    SEEDS,
    TOKENIZERS,
    comparison_of,
    pairs_of,
)
from bathyscope.stages.studies.universality.protocol import protocol
from bathyscope.stages.studies.universality.tables import tables
from bathyscope.stages.studies.universality.told import (
    by_spans,
    judged_pairs,
    of_kind,
    told,
)
from bathyscope.stages.studies.universality.verdicts import verdicts
from bathyscope.stages.studies.verdicts import Row, member_rows
from bathyscope.values import Json

NAME = "universality"
TITLE = "What models of other sizes, seeds and architectures have in common"
QUESTION = (
    "Do models of other sizes and architectures find the same latents, as much as two seeds of one "
    "model do, and more than the current token explains?"
)
SEMANTICS = 1
SETTINGS = ("held_out_tokens", "seed", "expansions", "k_shares", "seeds")
TRANSCODERS = False
SPANS = True
_KINDS = DICTIONARIES, SEEDS, ADJACENT, FAR, ARCHITECTURES, TOKENIZERS
DEFINITIONS = {
    "cka": "Debiased linear CKA, HSIC₁(X,Y) / √(HSIC₁(X,X) HSIC₁(Y,Y)); about 0 for unrelated "
    "rows. cka_biased is the plain form, cka_gaussian_floor its value for independent Gaussians.",
    "svcca": "Mean canonical correlation of the directions that hold 99 % of each side's variance; "
    "svcca_floor is √(directions / (rows - 1)), of independent rows.",
    "pwcca": "Canonical correlations weighted by how much of a's columns each explains.",
    "matched_mean": "Mean Pearson correlation of a's latents with their partners in b, each latent "
    "of b taken once; partners chosen on training rows, scored on held-out rows; 0 without one. "
    "Latents that fire in fewer than 10 training rows are left out.",
    "matched_mean_by_firing": "The same, weighted by held-out rows in which the latent is active.",
    "one_sided_mean": "The same with the best partner of each latent, whoever else has it.",
    "overstated": "one_sided_mean less matched_mean.",
    "found_in_b": "Latents of b that are partners with a correlation above 0.7.",
    "token_floor_mean": "A match of the token means of a's latents with b's latents, chosen on "
    "training rows and scored on held-out rows, over the same latents of a.",
    "partial_mean": "A match of what is left when the mean of the row's token is taken from both "
    "sides, over the same latents of a; latents of one token only score 0.",
    "shuffled_rows_mean": "A match with b's rows in another order.",
    "shuffled_documents_mean": "A match with b's documents in another order.",
    "crosscoder_equal": "Latents of a BatchTopK crosscoder of both, of those that fire in held-out "
    "rows, whose relative norm ‖d_b‖ / (‖d_a‖ + ‖d_b‖) lies between 0.3 and 0.7; "
    "crosscoder_common: between 0.1 and 0.9; a_by_norm, b_by_norm: beyond.",
    "crosscoder_a_exclusive": "Of those beyond, the ones whose direction latent scaling does not "
    "find on the other side; only where both have one width.",
    "comparison": "dictionaries: one model, two dictionary seeds. seeds: one size, two models. "
    "adjacent, far: two sizes of one architecture. architectures: one size of two architectures. "
    "tokenizers: two models with other tokenizers. training: first weights and last. untrained: "
    "two models with their first weights.",
    "aligned_by": "rows, or spans of text where tokenizers of the family differ: then rows counts "
    "spans, tokens_per_span the tokens of each side in one. documents_recoded: left out as their "
    "text encodes to other tokens; documents_differing: as tokenizers decode to other texts; "
    "spans_long: as one has more than 16 tokens; spans_masked: as one is a first position.",
    "parameters": "Geometric mean of the two models' parameters, embeddings included.",
}
SOURCES = (
    "Kornblith et al. 2019, arXiv:1905.00414: linear CKA; Song et al. 2012: HSIC₁.",
    "Raghu et al. 2017, arXiv:1706.05806: SVCCA. Morcos et al. 2018, arXiv:1806.05759: PWCCA.",
    "Wang et al. 2024, arXiv:2410.06672: the one-sided score of two architectures.",
    "Paulo and Belrose 2025, arXiv:2501.16615: two seeds of one dictionary.",
    "Lindsey et al. 2024, Sparse Crosscoders for Cross-Layer Features and Model Diffing.",
    "Minder et al. 2025, arXiv:2504.02922: BatchTopK crosscoders, latent scaling.",
    "Snijders and Borgatti 1999, Connections 22(2): the jackknife over nodes.",
)


def sizes(config: Config, member: Member) -> list[Size]:
    """The dictionaries of all studies; the middle one is compared."""
    return sizes_of(config, width_of(config))


def subjects(config: Config, members: Sequence[Member]) -> list[Subject]:
    """Chosen pairs, and every member by itself where there are two dictionaries of each size."""
    found = pairs_of(members)
    if len(config.study.seeds) < 2:
        found = [subject for subject in found if len(subject.members) > 1]
    readers = tuple(corpora_of(members))
    if len(readers) > 1:
        # One cut of the text for all, so that ceilings and floors are of the same spans.
        found = [replace(subject, readers=readers) for subject in found]
    return found


def measure(config: Config, subject: Subject, tell: Tell) -> list[Json]:
    """One row. Raises `ConfigError` for models of different items, `CorpusError` for text that
    their tokenizers do not agree on."""
    return [{**_about(subject), **measure_pair(config, subject, tell)}]


def conclude(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> StudyPage:
    """Verdicts with intervals over models, plots and tables."""
    rows = _with_comparisons(rows)
    return StudyPage(
        name=NAME,
        title=TITLE,
        question=QUESTION,
        answer=_answer(judged_pairs(rows)),
        verdicts=verdicts(rows),
        plots=plots(rows),
        tables=tables(rows),
        members=member_rows(members),
        protocol=protocol(config, rows),
        sources=SOURCES,
        definitions=DEFINITIONS,
    )


def _about(subject: Subject) -> Json:
    """What is known of a pair before it is measured."""
    a, b = subject.members[0], subject.members[-1]
    return {
        "subject": subject.name,
        "model_a": a.name,
        "model_b": b.name,
        "architecture_a": a.architecture,
        "architecture_b": b.architecture,
        "parameters_a": a.parameters,
        "parameters_b": b.parameters,
        "parameters": math.sqrt(a.parameters * b.parameters),
        "size_ratio": b.parameters / a.parameters,
        "same_seed": a.seed == b.seed,
        "trained_a": a.trained,
        "trained_b": b.trained,
        "overfitted": a.overfitted or b.overfitted,
    }


def _with_comparisons(rows: Sequence[Row]) -> list[Json]:
    """Rows with their kind, which depends on what other sizes there are."""
    sizes: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        for side in "ab":
            found = sizes.setdefault(kind_of(row, side), set())
            found.add(row[f"parameters_{side}"])
    return [
        {**row, "comparison": comparison_of(row, sorted(sizes[kind_of(row, "a")]))} for row in rows
    ]


def _answer(rows: Sequence[Row]) -> str:
    scores = [
        f"{words} {told(rows, 'matched_mean', kind)}"
        for kind, words in COMPARISONS.items()
        if kind in _KINDS and of_kind(rows, kind)
    ]
    over = f", over {BY_SPANS}" if by_spans(rows) else ""
    found = f"Mean correlation of latents, one to one{over}: {', '.join(scores) or NOT_MEASURED}."
    token = told(rows, "token_floor_mean", *_KINDS[1:])
    if token == NOT_MEASURED:
        return found
    beyond = told(rows, "partial_mean", *_KINDS[1:])
    alone = "the tokens of the span alone give" if over else "the current token alone gives"
    return f"{found} Of two trained models, {alone} {token}, and {beyond} is left beyond it."
