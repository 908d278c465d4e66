"""Study: is the second model easier?

A dictionary of one model is mapped into another by a linear map that is fitted on a few rows of
both, and trained on from there. How many tokens of the target does it need to a loss, the rows of
the map counted, against a training from scratch, from principal directions, from the same latents
turned at random, and from the target's own dictionary of another seed?
"""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.pages.study_data import StudyPage
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import Size, rows_are_tokens, width_of
from bathyscope.stages.studies.protocols import middle
from bathyscope.stages.studies.second.curves import LEVELS, MOST_HELD_OUT
from bathyscope.stages.studies.second.figures import plots
from bathyscope.stages.studies.second.measures import measure_pair, measure_target
from bathyscope.stages.studies.second.needed import map_tokens, sizes_needed
from bathyscope.stages.studies.second.pairs import COMPARISONS, NEAR, TRAINED, subjects_of
from bathyscope.stages.studies.second.reach import judged, reaches
from bathyscope.stages.studies.second.starts import MAPPED, PCA
from bathyscope.stages.studies.second.tables import tables
from bathyscope.stages.studies.second.told import SHARE, Judged
from bathyscope.stages.studies.second.verdicts import verdicts
from bathyscope.stages.studies.study import Subject, Tell
from bathyscope.stages.studies.verdicts import Row, member_rows
from bathyscope.values import Json

NAME = "second_model"
TITLE = "Dictionaries that start from another model's"
QUESTION = (
    "Does a dictionary need fewer tokens to a given loss when it starts from another model's, "
    "mapped through a linear map whose fitting tokens count, than from scratch, and is it the "
    "latents that help?"
)
SEMANTICS = 1
SETTINGS = (
    "splice_tokens", "seed", "seeds", "widths", "ks", "expansions", "k_shares", "batch_rows", "lr",
    "start_tokens", "map_tokens",
)  # fmt: skip
DEFINITIONS = {
    "curve_fvu": "Σ‖y - ŷ‖² / Σ‖y - ȳ‖² on held-out rows, after curve_tokens training rows; the "
    "first is before any step.",
    "start": "scratch: random unit rows. pca: principal directions of map_tokens rows, both signs. "
    "itself: the target's own dictionary of another seed. mapped: the source's, decoder rows "
    "through the map there and encoder rows through the map back, decoder rows then of unit norm "
    "with their lengths in the values of the latents, biases as the maps carry them. tied: the "
    "same with the decoder's rows as encoder and no biases. rotated: mapped, then turned by a "
    "random orthogonal matrix. rotated_covariance: turned by C^½ Q C^-½, C the covariance of the "
    "target. shuffled: as tied, by a map fitted on rows in another order.",
    "map_tokens": "Training rows of the target that came before the first step: those of the map, "
    "or of the principal directions. They count once, as tokens of the target.",
    "map_fvu": "What the map from source to target leaves unexplained of the target's held-out "
    "rows; map_penalty is its ridge penalty, chosen by generalised cross-validation.",
    "times fewer tokens": "Rows that the mean training from scratch needs to a loss, over "
    "training rows and map_tokens of the start. The loss is that of scratch after a share of its "
    "training. The first rows at which a curve is at or below the loss; over ln rows between two "
    "points. A start that never gets there counts as if it did at its last step; one that is there "
    "before its first step counts its map_tokens, and at least one step.",
    "protocol": "equal_count: one F and one L0 for all models. equal_ratio: one F / d and L0 / d.",
    "comparison": "; ".join(f"{name}: the source is {words}" for name, words in COMPARISONS.items())
    + ".",
}
TRANSCODERS = False
SPANS = False
SOURCES = (
    "Golub, Heath and Wahba 1979, Technometrics 21(2): generalised cross-validation.",
    "Mezzadri 2007, arXiv:math-ph/0609050: even draws of orthogonal matrices.",
    "Coleman et al. 2017, DAWNBench: time to a given quality.",
    "Gao et al. 2024, arXiv:2406.04093: TopK dictionaries, decoder rows as first encoder rows.",
    "Bansal et al. 2021, arXiv:2106.07682: models joined by a fitted linear map.",
)


def sizes(config: Config, member: Member) -> list[Size]:
    """The middle dictionaries of both protocols; `config` is that of the member's run.

    Raises `ConfigError` for models of pictures, whose rows of two models are not of one place.
    """
    if not rows_are_tokens(config):
        raise ConfigError(
            f"study.name is {NAME}, which maps rows of one model to those of another token by "
            f"token, and data.kind is {config.data.kind}. Of pictures there are superposition, "
            "universality and wasted_weights."
        )
    return sizes_needed(config, width_of(config), trained=member.trained)


def subjects(config: Config, members: Sequence[Member]) -> list[Subject]:
    """Every trained model by itself, and chosen pairs of a source and a target."""
    return subjects_of(members)


def measure(config: Config, subject: Subject, tell: Tell) -> list[Json]:
    """A row for each start. Raises `ConfigError` for models of different tokenizers or items."""
    if len(subject.members) == 1:
        rows = measure_target(config, subject.members[0], tell)
    else:
        rows = measure_pair(config, subject, tell)
    return [{**_about(subject), **row} for row in rows]


def conclude(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> StudyPage:
    """Verdicts with intervals over targets, plots and tables."""
    records, own = reaches(rows), judged(rows)
    return StudyPage(
        name=NAME,
        title=TITLE,
        question=QUESTION,
        answer=_answer(config, records),
        verdicts=verdicts(config, members, records),
        plots=plots(config, own, judged(records)),
        tables=tables(config, own, judged(records)),
        members=member_rows(members),
        protocol=_protocol(config, rows),
        sources=SOURCES,
        definitions=DEFINITIONS,
    )


def _about(subject: Subject) -> Json:
    """What is known of a target, and of its source where it has one."""
    target = subject.members[-1]
    source = subject.members[0] if len(subject.members) > 1 else None
    per = None if target.tokens is None else target.tokens / target.parameters
    return {
        "subject": subject.name,
        "target": target.name,
        "architecture": target.architecture,
        "parameters": target.parameters,
        "model_seed": target.seed,
        "tokens_per_parameter": per,
        "source": source and source.name,
        "source_architecture": source and source.architecture,
        "source_parameters": source and source.parameters,
        "source_seed": source and source.seed,
        "source_trained": source and source.trained,
        "overfitted": target.overfitted or bool(source and source.overfitted),
    }


def _answer(config: Config, records: Sequence[Row]) -> str:
    own = Judged(config, records)
    kinds = [f"{COMPARISONS[kind]} {own.told(MAPPED, kind)}" for kind in TRAINED]
    return (
        f"Times fewer tokens than from scratch, to the loss that scratch has at half of its "
        f"training, those of the map counted: from {', '.join(kinds)}; from principal directions "
        f"{own.told(PCA)}; {own.itself_told()}."
    )


def _protocol(config: Config, rows: Sequence[Row]) -> list[tuple[str, str]]:
    study, marks = config.study, map_tokens(config)
    steps = max(study.start_tokens // study.batch_rows, 1)
    shares = ", ".join(f"{share:g}" for share in LEVELS)
    return [
        (
            "Pairs",
            "A target and its sources: the next seed of its size, the next smaller and larger size "
            "of its architecture, the nearest size of another architecture (within a factor of "
            f"{NEAR:g}), and another seed of its size without training. So pairs grow with the "
            "number of models.",
        ),
        (
            "Maps",
            f"Ridge regressions there and back on the first {', '.join(f'{n:,}' for n in marks)} "
            f"training rows that both models share; verdicts are of the middle, {middle(marks):,}. "
            "Means and scales of all training rows are given to every start alike.",
        ),
        (
            "Dictionaries",
            f"TopK. Equal F and L0: F = {middle(study.widths)}, L0 = {middle(study.ks)}. Equal "
            f"ratios: F = {middle(study.expansions)} d, L0 = {middle(study.k_shares):g} d; of a "
            "source with more latents the most used are taken, and where there are too few the "
            "rest is as from scratch. The source's are those of all studies, "
            f"{study.tokens_per_latent} rows per latent.",
        ),
        (
            "Training",
            f"{steps * study.batch_rows:,} rows in {steps:,} steps of {study.batch_rows}, the same "
            f"rows in the same order for every start. The rate grows over the first "
            f"{config.train.warmup_share:.0%} of the steps to {study.lr:g} and stays there. One "
            "factor of all latents is fitted to the rows of the first step, as from scratch.",
        ),
        (
            "Losses",
            f"FVU on about {min(study.splice_tokens, MOST_HELD_OUT):,} held-out rows, before the "
            "first step and then at every doubling and every loss to be reached. These are what "
            f"the mean of {len(study.seeds)} trainings from scratch has after {shares} of the "
            f"rows; verdicts are of {SHARE:g}.",
        ),
        (
            "What is counted",
            "Training rows of the target, and once the rows that its map or its directions were "
            "fitted on, though a training comes by them again. Not the source's own training: its "
            "dictionary is there, trained on the same text. Running the source on the rows of the "
            "map is not counted either.",
        ),
        (
            "Intervals",
            "95 % over targets: drawn with replacement from 8 on with all of their pairs, left out "
            "in turn below. As models are sources of each other, a ratio of pairs has to hold with "
            "each model left out in turn too. Overfitted models, on either side, carry no verdict.",
        ),
        *_failed(rows),
    ]


def _failed(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Trainings that ended early, which never reach a loss."""
    found = [f"{r['subject']}, {r['start']}: {r['error']}" for r in rows if r["error"]]
    return [("Trainings that failed", " ".join(found))] if found else []
