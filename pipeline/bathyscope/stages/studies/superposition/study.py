"""Study: are larger models in more superposition, and are they still at equal loss?

Superposition is read from how directions of the weights lie (feature dimensionality, Elhage et al.
2022, arXiv:2209.10652; mean squared overlap, Liu, Liu and Gore 2025, arXiv:2505.10465) and from how
many dimensions activations use. Size and capability go together, so a small model's end is also set
against the larger ones' checkpoints of equal loss.
"""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.config import Config
from bathyscope.pages.study_data import StudyPage, Verdict
from bathyscope.stages.studies.equal_loss import equal_loss_verdicts, pairs_of
from bathyscope.stages.studies.family import table_row
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import Size, rows_are_tokens, run_of, width_of
from bathyscope.stages.studies.protocols import sizes_at_equal_ratio
from bathyscope.stages.studies.study import Subject, Tell
from bathyscope.stages.studies.superposition.activations import PARTS, SAMPLE_ROWS
from bathyscope.stages.studies.superposition.equal_training import at_equal_training
from bathyscope.stages.studies.superposition.figures import plots
from bathyscope.stages.studies.superposition.law import overlap_law
from bathyscope.stages.studies.superposition.measures import measure_member
from bathyscope.stages.studies.superposition.quantities import Quantity, curves_of
from bathyscope.stages.studies.superposition.tables import tables
from bathyscope.stages.studies.superposition.verdicts import trends
from bathyscope.stages.studies.superposition.weights import PAIR_ROWS
from bathyscope.stages.studies.verdicts import Row, answer_of, member_rows
from bathyscope.values import Json

NAME = "superposition"
TITLE = "Superposition in models of growing size, and at equal loss"
QUESTION = "Do larger models hold more directions per dimension, and do they still at equal loss?"
SEMANTICS = 1
SETTINGS = ("splice_tokens", "train_tokens", "seed")
TRANSCODERS = False
SPANS = False
QUANTITIES = (
    Quantity(
        "unembedding_centred", "overlap_times_width", "overlap × width of unembedding rows", "lower"
    ),
    Quantity(
        "unembedding_frequency",
        "overlap_times_width",
        "overlap × width of unembedding rows weighted by token frequency",
        "lower",
    ),
    Quantity("unembedding_centred", "dimensionality_mean", "mean D of unembedding rows", "higher"),
    Quantity("mlp_out", "overlap_times_width", "overlap × width of MLP out", "lower"),
    Quantity("activations", "participation_ratio_share", "participation ratio / d", "higher"),
    Quantity("activations", "two_nn", "TwoNN dimension", "lower"),
)
"""What is compared at equal loss."""
DEFINITIONS = {
    "mean squared overlap": "Mean of cos² over pairs of rows, exact; times the width it is 1 for "
    "random directions and about 1 under strong superposition. Least possible: (n - d) / (n - 1).",
    "D, feature dimensionality": "‖W_i‖² / Σ_j (Ŵ_i·W_j)²: 1 for a row with a dimension to itself, "
    "1/2 in an antipodal pair; on average at most d / n.",
    "dimensions_per_feature": "d / ‖W‖_F²; for rows of about unit length.",
    "shared_rows": "Share of rows of D below 1/2, thus with less than an antipodal pair has.",
    "participation ratio": "(Σλ)² / Σλ² of the covariance of activations; / d for the share.",
    "effective rank": "exp H(λ / Σλ); of singular values as Roy and Vetterli 2007 in the table.",
    "stable rank": "Σλ / λ_max.",
    "TwoNN": f"Facco et al. 2017, of {SAMPLE_ROWS} rows, the same number for all models.",
    "kind": "unembedding (rows to the logits of tokens or classes, as they are), "
    "unembedding_centred (less their mean, which softmax does not see), unembedding_frequency "
    "(rows, mean and pairs weighted by how often the token occurs), unembedding_shuffled (each "
    "column shuffled), mlp_out and mlp_in (at the hook's layer), layer_out (of a model of no "
    "family), dictionary and dictionary_frequency (decoder rows, weighted by firing), activations "
    "(at the hook point), depth (after every block).",
    "state": "final, or the checkpoint.",
    "less superposition": "Lower overlap × width, higher D; of activations a higher participation "
    "ratio / d, as fewer dimensions in use leave more directions to each of them.",
    "loss": "Nats per token of these weights on the held-out text of the study.",
}
SOURCES = (
    "Elhage et al. 2022, Toy Models of Superposition, arXiv:2209.10652: feature dimensionality.",
    "Liu, Liu and Gore 2025, Superposition Yields Robust Neural Scaling, arXiv:2505.10465.",
    "Roy and Vetterli 2007, The effective rank.",
    "Facco et al. 2017, Scientific Reports 7:12140: TwoNN.",
)


def sizes(config: Config, member: Member) -> list[Size] | None:
    """Dictionaries of equal F / d, at the middle L0 / d; `config` is that of the member's run."""
    found = sorted(set(sizes_at_equal_ratio(config, width_of(config))))
    ks = sorted({size.k for size in found})
    return [size for size in found if size.k == ks[len(ks) // 2]] or None


def subjects(config: Config, members: Sequence[Member]) -> list[Subject]:
    """Every member by itself, with its checkpoints."""
    return [Subject(member.name, (member,)) for member in members]


def measure(config: Config, subject: Subject, tell: Tell) -> list[Json]:
    """Rows by weights (final and checkpoints) and by kind of direction or activation."""
    [member] = subject.members
    own = run_of(config, member)
    rows = measure_member(own, member, sizes(own, member) or [], tell)
    return [{**table_row(member), "hook": own.hook, **row} for row in rows]


def conclude(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> StudyPage:
    """Trends over size, the law of overlap, models at equal loss, plots and tables."""
    over_size = trends(config, members, rows)
    law, fits = overlap_law(config, members, rows)
    trained = at_equal_training(config, members, rows)
    pairs = [(quantity, pairs_of(members, curves_of(rows, quantity))) for quantity in QUANTITIES]
    matched = [
        v for quantity, own in pairs for v in equal_loss_verdicts(config, quantity.asked, own)
    ]
    return StudyPage(
        name=NAME,
        title=TITLE,
        question=QUESTION,
        answer=_answer(over_size, trained, matched),
        verdicts=[*over_size, *law, *trained, *matched],
        plots=plots(members, rows, QUANTITIES),
        fits=fits,
        tables=tables(members, rows, pairs),
        members=member_rows(members),
        protocol=_protocol(config),
        sources=SOURCES,
        definitions=DEFINITIONS,
    )


def _answer(*groups: Sequence[Verdict]) -> str:
    """The claims on the overlap of unembedding rows in the architecture of the most sizes."""
    claims = [
        verdict
        for verdicts in groups
        for verdict in verdicts
        if verdict.claim.partition(":")[0] == verdicts[0].claim.partition(":")[0]
        and "unembedding rows" in verdict.claim
        and "overlap" in verdict.claim
    ]
    told = answer_of(claims)
    if not claims:
        return told
    return (
        f"{told} A size comes with its own training here, and width bounds every overlap: read "
        "each claim with its controls and its doubt."
    )


def _protocol(config: Config) -> list[tuple[str, str]]:
    study = config.study
    found = [
        (
            "Weights",
            "Final weights of every model, all of its checkpoints, and models without training. "
            f"Mean |cos| and row maxima: {PAIR_ROWS} rows against all.",
        ),
        (
            "Activations",
            f"About {study.splice_tokens:,} held-out rows, the same items for all; captured in "
            f"the model's dtype. Errors: jackknife over at most {PARTS} parts of the documents.",
        ),
        (
            "Dictionaries",
            f"TopK of F = {', '.join(map(str, study.expansions))} d at the middle L0 / d, seeds "
            f"{', '.join(map(str, study.seeds))}; of final weights only.",
        ),
        (
            "Equal loss",
            "Adjacent sizes of one architecture and seed: the smaller one's final weights, and the "
            "larger one's training where it first had that loss, between checkpoints on a straight "
            "line in loss. Intervals are over pairs.",
        ),
        (
            "Equal training",
            "Each model between its checkpoints around the largest ratio of tokens to parameters "
            "that all sizes of its architecture reach before their last weights.",
        ),
        (
            "Trends",
            "Least squares on ln parameters (embeddings included); groups are trained models (size "
            "and seed). Overfitted and untrained models carry no verdict.",
        ),
    ]
    if rows_are_tokens(config):
        found.insert(0, ("Depth", f"The residual stream after {study.depth:.0%} of the blocks."))
    else:
        found = [entry for entry in found if entry[0] not in ("Equal loss", "Equal training")]
    return found
