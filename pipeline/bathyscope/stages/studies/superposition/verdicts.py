"""What the study of superposition shows over size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bathyscope.config import Config
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.superposition.figures import of
from bathyscope.stages.studies.verdicts import (
    Row,
    by_architecture,
    judged,
    means,
    slope_told,
    spread,
    training_told,
    trend_verdict,
)

BOUND = (
    "Where sizes share a vocabulary, n / d falls as models widen, and with it the least possible "
    "value (Welch), whatever is learned."
)
CLUSTERED = (
    "Far above 1, rows lie in fewer directions than random ones, which is more than having to "
    "share dimensions; it rises to a peak early in training and falls after it, so models that "
    "saw fewer tokens per parameter are nearer to the peak. Rows of tokens that hardly occur are "
    "pushed one way together: compare the figure that is weighted by frequency."
)


class Claim(NamedTuple):
    """A trend over size that is asked for."""

    kind: str
    key: str
    words: str
    wanted: str
    unit: str
    controls: tuple[tuple[str, str, str], ...]
    """Kind, column and words of what else was measured of the same models."""
    doubt: str
    would_change: str


CLAIMS = (
    Claim(
        "unembedding_centred", "overlap_times_width",
        "unembedding rows overlap more for their width in larger models.", "rises",
        "overlap × width",
        (("unembedding_shuffled", "overlap_times_width", "columns shuffled"),
         ("unembedding_centred", "welch_times_width", "least possible"),
         ("unembedding", "overlap_times_width", "with their mean"),
         ("unembedding_frequency", "overlap_times_width", "weighted by token frequency")),
        f"{CLUSTERED} {BOUND}",
        "The opposite sign at equal tokens per parameter, or at n / d above 100 for every size.",
    ),
    Claim(
        "unembedding_frequency", "overlap_times_width",
        "unembedding rows, weighted by how often a token occurs, overlap more for their width in "
        "larger models.", "rises", "overlap × width",
        (("unembedding_centred", "overlap_times_width", "all tokens alike"),),
        "A few frequent tokens carry most of the weight, and their text is this corpus.",
        "The opposite sign at equal tokens per parameter, or with another tokenizer.",
    ),
    Claim(
        "mlp_out", "overlap_times_width",
        "directions by which an MLP writes overlap more for their width in larger models.",
        "rises", "overlap × width", (("mlp_in", "overlap_times_width", "directions it reads by"),),
        "One layer of each model, at the hook point; neurons are no features.",
        "The opposite sign at other depths.",
    ),
    Claim(
        "layer_out", "overlap_times_width",
        "directions by which the layer writes overlap more for their width in larger models.",
        "rises", "overlap × width", (),
        "One layer of each model; how many directions there are differs by size.",
        "The opposite sign at other layers.",
    ),
    Claim(
        "dictionary", "dimensionality_mean",
        "decoder rows have less of a dimension to themselves in larger models, at equal F / d.",
        "falls", "D",
        (("dictionary", "dimensionality_bound", "most possible, d / F"),
         ("dictionary_frequency", "dimensionality_mean", "weighted by firing")),
        "It is a property of the dictionary too: dead latents keep the directions they began "
        "with, and none is trained to convergence.",
        "Dictionaries trained on ten times the rows.",
    ),
    Claim(
        "activations", "participation_ratio_share",
        "activations of larger models use a smaller share of their dimensions "
        "(participation ratio / d).", "falls", "participation ratio / d",
        (("activations", "shuffled_participation_ratio_share", "columns shuffled"),
         ("activations", "effective_rank_eigenvalues_share", "effective rank / d"),
         ("activations", "stable_rank_share", "stable rank / d")),
        "A few dimensions of large variance rule this ratio; effective rank weighs them less.",
        "The opposite sign of effective rank, or at another depth.",
    ),
    Claim(
        "activations", "two_nn",
        "activations of larger models lie on a surface of more dimensions (TwoNN).", "rises",
        "TwoNN dimension",
        (("activations", "two_nn_gaussian", "Gaussian rows of the same covariance"),),
        "Nearest rows are mostly those of one token, so this is the dimension of what context adds "
        "at that scale, far below that of the whole cloud. Above ten it is a lower bound.",
        "The opposite sign with ten times the rows.",
    ),
)  # fmt: skip


def trends(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Verdict]:
    """A verdict per claim and architecture of at least three sizes."""
    found = []
    for claim in CLAIMS:
        values = means(judged(members), rows, claim.key, of(claim.kind))
        groups = by_architecture(values)
        large = [
            name for name, own in groups.items() if len({v.member.parameters for v in own}) > 2
        ]
        for name in large:
            alike = [m for m in members if m.architecture == name]
            found += trend_verdict(
                claim.words,
                # Architectures of few sizes are told of among the doubts.
                [v for v in values if v.member.architecture not in large] + groups[name],
                config,
                wanted=claim.wanted,
                unit=claim.unit,
                controls=_controls(config, claim, alike, rows),
                doubt=f"{claim.doubt} {training_told(judged(alike))}".rstrip(),
                would_change=claim.would_change,
            )
    return found


def _controls(config: Config, claim: Claim, members: Sequence[Member], rows: Sequence[Row]) -> str:
    """What trained models gave, the claim's other columns, and models without training."""
    trained = judged(members)
    columns = [(claim.kind, claim.key, "Trained"), *claim.controls]
    told = [
        f"{words} {spread(v.value for v in means(trained, rows, key, of(kind)))}"
        for kind, key, words in columns
    ]
    untrained = [m for m in members if not m.trained]
    initial = means(untrained, rows, claim.key, of(claim.kind))
    told.append(
        f"models without training {spread(v.value for v in initial)}{slope_told(config, initial)}"
    )
    if claim.key == "overlap_times_width":
        told.append("random directions 1")
    return f"{'; '.join(told)}."
