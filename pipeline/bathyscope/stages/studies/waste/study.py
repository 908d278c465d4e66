"""Study: do larger models waste more of their weights?

Weights, blocks or bits are taken from every model at rising shares, without training it again. What
the loss rises by is measured on held-out items; what methods need to know is read from training
items. The share removable within a budget of nats sums up each method. Only methods that take away
different kinds of things count as independent evidence.
"""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.config import Config
from bathyscope.pages.study_data import StudyPage
from bathyscope.stages.studies.family import table_row
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import Size, rows_are_tokens, run_of
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.study import Subject, Tell
from bathyscope.stages.studies.verdicts import Row, member_rows
from bathyscope.stages.studies.waste.along import (
    ALONG,
    METHODS_ALONG,
    measure_along,
    subjects_along,
)
from bathyscope.stages.studies.waste.along_figures import plots_along, tables_along
from bathyscope.stages.studies.waste.damage import damage_laws
from bathyscope.stages.studies.waste.equal_training import at_equal_loss, at_equal_training
from bathyscope.stages.studies.waste.figures import plots, tables
from bathyscope.stages.studies.waste.measures import measure_waste
from bathyscope.stages.studies.waste.methods import METHODS, ORDERS, STORED_BITS
from bathyscope.stages.studies.waste.together import WASTE_MORE
from bathyscope.stages.studies.waste.verdicts import excluded, verdicts
from bathyscope.values import Json

NAME = "wasted_weights"
TITLE = "Wasted weights of models of growing size"
QUESTION = (
    "Can a larger share of the weights, blocks or bits be taken from larger models before they "
    "lose more than the budget?"
)
SEMANTICS = 1
SETTINGS = (
    "splice_tokens",
    "calibration_items",
    "shares",
    "bits",
    "budget_nats",
    "resamples",
    "seed",
)
TRANSCODERS = False
SPANS = False
DEFINITIONS = {
    "rise": "ΔCE, nats per token that the changed model loses against itself before, on the same "
    "held-out tokens. Of pictures: KL of the class probabilities from those of the model before, "
    "nats per picture. Interval: 95 % bootstrap over documents (pictures), paired.",
    "rise_bits_per_byte": "The same as bits per byte of the text.",
    "share": "Weights: floor(s · n) entries of every prunable matrix. Blocks: parameters of the "
    f"blocks passed by over those of all blocks. Bits: 1 - bits per weight / {STORED_BITS}, steps "
    "and lowest values counted.",
    "removable": "The share at which the curve through all measured shares, from 0 on, first meets "
    "the budget, by monotone cubic interpolation (PCHIP); for blocks too, though nothing lies "
    "between whole ones. The largest measured share where it never does (at_least). Interval: the "
    "whole curve drawn again over documents.",
    "area": "Mean rise over the shares from 0 to the largest measured, by trapezoids.",
    "prunable": "Weights of Linear, Conv1D and Conv2d; embeddings and the head are never touched.",
    "magnitude": "The lowest |W| of each matrix.",
    "wanda": "The lowest |W_ij| · ‖X_j‖₂ of each output row.",
    "sparsegpt": "The lowest W² / [H⁻¹]_jj, H = X Xᵀ, with the other weights updated.",
    "random_weights": "Control: weights of each matrix drawn by the seed, equally many.",
    "angular": "n adjacent blocks, from where the streams before and after them are nearest in "
    "angle at the last token.",
    "influence": "The n blocks of least Block Influence, 1 - E[cos(x_l, x_l+1)] over all tokens.",
    "random_blocks": "Control: n blocks in an order drawn by the seed; mean of "
    f"{ORDERS} rotations of it.",
    "rounding": "Every prunable weight to the nearest of 2^b values, evenly spaced from the lowest "
    "to the highest of its block of 64 columns.",
    "along": "At a checkpoint of the training (state, state_tokens); along_point: its points.",
    "trained": "False for models with their initial weights.",
}
SOURCES = (
    "Sun et al. 2023, A Simple and Effective Pruning Approach (Wanda), arXiv:2306.11695; the "
    "Llama-2 figures are theirs.",
    "Frantar and Alistarh 2023, SparseGPT, arXiv:2301.00774.",
    "Gromov et al. 2024, The Unreasonable Ineffectiveness of the Deeper Layers, arXiv:2403.17887.",
    "Men et al. 2024, ShortGPT, arXiv:2403.03853: Block Influence.",
    "Dettmers and Zettlemoyer 2023, The case for 4-bit precision, arXiv:2212.09720.",
    "Hoffmann et al. 2022, arXiv:2203.15556: tokens per parameter.",
    "Kumar et al. 2024, Scaling Laws for Precision, arXiv:2411.04330: rounding costs more the more "
    "tokens a model has read, and less the larger it is.",
)


def sizes(config: Config, member: Member) -> list[Size] | None:
    """None: a model and the shared corpus are enough."""
    return None


def subjects(config: Config, members: Sequence[Member]) -> list[Subject]:
    """Every member by itself; then, along the training, checkpoints and pairs of members."""
    own = [Subject(member.name, (member,)) for member in members]
    return own + subjects_along(members, text=rows_are_tokens(config))


def measure(config: Config, subject: Subject, tell: Tell) -> list[Json]:
    """A row for each method and share of a member, and those that sum up."""
    if subject.checkpoints:
        return measure_along(config, subject, tell)
    [member] = subject.members
    opened = OpenedMember(run_of(config, member))
    return [{**table_row(member), **row} for row in measure_waste(opened, tell)]


def conclude(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> StudyPage:
    """Verdicts by method and together, plots and tables."""
    found = verdicts(config, members, rows)
    found += at_equal_training(config, members, rows)
    found += at_equal_loss(config, members, rows)
    apart, fits = damage_laws(config, members, rows)
    found += apart
    # All methods together come first, of last weights and at equal training.
    found.sort(key=lambda verdict: not verdict.claim.endswith(WASTE_MORE))
    answers = [
        f"{v.claim.removesuffix(WASTE_MORE).strip(' :,')}, {v.answer}"
        for v in found
        if v.claim.endswith(WASTE_MORE)
    ]
    answer = (
        f"Larger models waste more: {'; '.join(answers) or 'not measured at three sizes'}. Yes is "
        "said only where two different kinds of removal agree; every method has its own verdict."
    )
    return StudyPage(
        name=NAME,
        title=TITLE,
        question=QUESTION,
        answer=answer,
        verdicts=found,
        fits=fits,
        plots=[*plots(config, members, rows), *plots_along(config, members, rows)],
        tables=[*tables(config, members, rows), *tables_along(config, members, rows)],
        members=member_rows(members),
        protocol=_protocol(config, rows),
        sources=SOURCES,
        definitions=DEFINITIONS,
    )


def _protocol(config: Config, rows: Sequence[Row]) -> list[tuple[str, str]]:
    study = config.study
    items = f"the first {study.calibration_items} training items"
    documents = max(row["documents"] for row in rows)
    if rows_are_tokens(config):
        held_out = f"{study.splice_tokens:,} held-out tokens ({documents} documents), first"
        held_out += " positions left out"
    else:
        held_out = f"all held-out items (of {documents} pictures); no classes are needed"
    told = [
        ("Loss", f"On {held_out}; the same for all models."),
        (
            "Calibration",
            f"Wanda, SparseGPT and block distances read {items}; never a held-out one. Where "
            "blocks are known they are pruned in order, on inputs from the pruned blocks before.",
        ),
        (
            "Shares",
            f"{', '.join(f'{s:g}' for s in sorted(study.shares))} of the weights; 0 to all blocks; "
            f"{', '.join(map(str, sorted(study.bits, reverse=True)))} bits in blocks of 64 columns "
            "with a step and a lowest value in float16.",
        ),
        (
            "State",
            "One loaded model: weights are put back after each change, and the clean loss of the "
            "end equals that of the beginning bit by bit, or the model fails.",
        ),
        (
            "Models without training",
            "Measured too, outside the verdicts: their loss is near that of guessing, so removal "
            "costs them little. Their shares show what the figure says where nothing was learned.",
        ),
        (
            "Trends",
            "Least squares on ln parameters (embeddings included); groups are trained models (size "
            "and seed): drawn with replacement from 8 on, left out in turn below.",
        ),
        *_along_told(rows),
        (
            "Together",
            "Weights, blocks and bits are three kinds. Larger models waste more only where methods "
            "of two kinds rise with intervals above 0, and none falls.",
        ),
    ]
    left_out = [text for method in METHODS for text in excluded(rows, method)]
    return [*told, ("Left out", " ".join(dict.fromkeys(left_out)))] if left_out else told


def _along_told(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """How models are compared along their training, where they were."""
    if not any(row["kind"] == ALONG for row in rows):
        return []
    return [
        (
            "Equal training",
            "Each model between its checkpoints around the largest ratio of tokens to parameters "
            "that all sizes of its architecture reach before their last weights, by "
            f"{', '.join(m.words for m in METHODS_ALONG)}.",
        ),
        (
            "Size and training apart",
            "One law for all weights and shares of a method: the rise in nats against training "
            "tokens and parameters, embeddings included; rises whose interval holds 0 are left "
            "out.",
        ),
        (
            "Equal loss",
            "Adjacent sizes of one architecture and seed: the smaller one's last weights, and the "
            "larger one's training where it first had that loss, between the checkpoints around "
            "it on a straight line in loss. Intervals are over pairs.",
        ),
    ]
