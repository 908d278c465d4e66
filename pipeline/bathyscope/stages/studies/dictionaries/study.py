"""Study: do larger models leave more for a dictionary to explain, and how does that scale?

Dictionaries of many widths and L0s are trained on every model, at fixed rows per latent and at the
same relative depth, by two protocols: equal F / d and L0 / d, and equal F and L0. Of each model the
joint law L(n, k) and the law of compute are fitted (Gao et al. 2024, arXiv:2406.04093).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.pages.study_data import StudyPage, Verdict
from bathyscope.stages.studies.dictionaries.figures import plots, tables
from bathyscope.stages.studies.dictionaries.fits import fits, latents_for_equal_fvu
from bathyscope.stages.studies.dictionaries.measures import (
    STABLE_ABOVE,
    UNIQUE_BELOW,
    measure_member,
)
from bathyscope.stages.studies.family import table_row
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import Size, rows_are_tokens, run_of, width_of
from bathyscope.stages.studies.protocols import EQUAL_COUNT, EQUAL_RATIO, PROTOCOLS, sizes_of
from bathyscope.stages.studies.study import Subject, Tell
from bathyscope.stages.studies.verdicts import (
    Row,
    answer_of,
    judged,
    means,
    member_rows,
    spread,
    training_told,
    trend_verdict,
    trends_told,
)
from bathyscope.values import Json

NAME = "dictionary_scaling"
TITLE = "Dictionaries of models of growing size"
QUESTION = (
    "Do larger models leave more for a sparse dictionary to explain, at equal latents per "
    "dimension and at equal latents?"
)
SEMANTICS = 1
SETTINGS = ("splice_tokens", "resamples", "seed", "held_out_tokens")
TRANSCODERS = False
SPANS = False
DEFINITIONS = {
    "fvu": "Σ‖x - x̂‖² / Σ‖x - x̄‖² over all held-out rows but first positions.",
    "delta_ce": "Nats per token that the model loses with the reconstruction in place; interval: "
    "95 % bootstrap over documents.",
    "delta_bits_per_byte": "The same as bits per byte of the text.",
    "earlier_tokens": "Training tokens after which a checkpoint of the model had the loss of the "
    "spliced model, between checkpoints by monotone interpolation; empty below the first one.",
    "earlier_share": "earlier_tokens / tokens of the whole training.",
    "alive": "Latents that fire on a held-out row.",
    "unique": f"Latents whose largest cosine with another decoder row is below {UNIQUE_BELOW}.",
    "stable": f"Latents with a partner in the dictionary of the other seed whose mean cosine of "
    f"encoder and decoder is above {STABLE_ABOVE}, one to one.",
    "compute": "6 · F · d · training rows, operations; selection and data are not counted.",
    "kind": "dictionary, or a control: pca (k components), neurons (the k coordinates that deviate "
    "most), random (random directions of the same F and k, scaled by least squares).",
    "trained": "False for models with their initial weights.",
}
SOURCES = (
    "Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093: L(n, k), L(C).",
    "Paulo and Belrose 2025, arXiv:2501.16615: latents shared by two seeds.",
    "Templeton et al. 2024, Scaling Monosemanticity: dead latents by width.",
)


def sizes(config: Config, member: Member) -> list[Size]:
    """Both protocols' dictionaries; `config` is that of the member's run.

    Raises `ConfigError` for models of pictures, which have no loss of text.
    """
    if not rows_are_tokens(config):
        raise ConfigError(
            f"study.name is {NAME}, which measures losses of text, and data.kind is "
            f"{config.data.kind}. Of pictures there are superposition, universality and "
            "wasted_weights."
        )
    return sizes_of(config, width_of(config))


def subjects(config: Config, members: Sequence[Member]) -> list[Subject]:
    """Every member by itself."""
    return [Subject(member.name, (member,)) for member in members]


def measure(config: Config, subject: Subject, tell: Tell) -> list[Json]:
    """A row for every dictionary of a member, and for the controls of its size."""
    [member] = subject.members
    own = run_of(config, member)
    width = width_of(own)
    rows = measure_member(own, member, width, tell)
    for row in rows:
        row["compute"] = 6.0 * row["num_latents"] * width * row["training_rows"]
        row["protocols"] = _protocols(own, row, width)
    return [{**table_row(member), "hook": own.hook, **row} for row in rows]


def conclude(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> StudyPage:
    """Verdicts on both protocols, the laws of each model, plots and the table."""
    verdicts = _verdicts(config, members, rows)
    return StudyPage(
        name=NAME,
        title=TITLE,
        question=QUESTION,
        answer=answer_of(verdicts),
        verdicts=verdicts,
        plots=plots(members, rows),
        fits=fits(config, members, rows),
        tables=tables(members, rows),
        members=member_rows(members),
        protocol=_protocol(config),
        sources=SOURCES,
        definitions=DEFINITIONS,
    )


def _protocols(config: Config, row: Json, width: int) -> list[str]:
    study, found = config.study, []
    ks = [max(round(share * width), 2) for share in study.k_shares]
    if row["num_latents"] in [e * width for e in study.expansions] and row["k"] in ks:
        found.append(EQUAL_RATIO)
    if row["num_latents"] in study.widths and row["k"] in study.ks:
        found.append(EQUAL_COUNT)
    return found


def _verdicts(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Verdict]:
    carrying = judged(members)
    untrained = [m for m in members if not m.trained]
    found = []
    for protocol, words in PROTOCOLS.items():
        for key, claim, unit in (
            ("fvu", "larger models leave more of their activations unexplained", "FVU"),
            ("delta_ce", "larger models lose more when the reconstruction is put in place", "nats"),
        ):
            chosen = _of(protocol, "dictionary")
            found += trend_verdict(
                f"at {words}, {claim}.",
                means(carrying, rows, key, chosen),
                config,
                wanted="rises",
                unit=unit,
                controls=_controls(config, members, untrained, rows, key, protocol),
                doubt=f"{_doubt(key, protocol)} {training_told(carrying)}".rstrip(),
                would_change="A slope whose interval reaches 0 with more sizes, or the opposite "
                "sign where dictionaries are trained to convergence.",
            )
    found += trend_verdict(
        "larger models need more latents for the same FVU at the same L0.",
        latents_for_equal_fvu(carrying, rows),
        config,
        wanted="rises",
        unit="ln F",
        controls="The level is the largest FVU that every model's dictionaries reach; inside the "
        "measured widths only.",
        doubt="Widths are few, so the place between them rests on interpolation in ln F.",
        would_change="Wider dictionaries of the small models that do not get better.",
    )
    found += trend_verdict(
        "two seeds share fewer latents in larger models, at equal F / d and L0 / d.",
        means(carrying, _shares(rows), "stable_share", _of(EQUAL_RATIO, "dictionary")),
        config,
        wanted="falls",
        unit="share of latents",
        controls="Alive and unique latents are counted apart, in the table.",
        doubt="Rows per latent are few: more training makes latents more stable.",
        would_change="Dictionaries trained on ten times the rows.",
    )
    return found


def _shares(rows: Sequence[Row]) -> list[Json]:
    return [
        {**row, "stable_share": row["stable"] / row["num_latents"]}
        for row in rows
        if row.get("stable") is not None
    ]


def _of(protocol: str, kind: str) -> Callable[[Row], bool]:
    return lambda row: row["kind"] == kind and protocol in row["protocols"]


def _is_of(kind: str, ks: set[int], row: Row) -> bool:
    return row["kind"] == kind and row["k"] in ks


def _controls(
    config: Config,
    members: Sequence[Member],
    untrained: Sequence[Member],
    rows: Sequence[Row],
    key: str,
    protocol: str,
) -> str:
    """The same column of every control, smallest to largest over the models."""
    carrying = judged(members)
    ks = {row["k"] for row in rows if protocol in row["protocols"]}
    random = means(carrying, rows, key, _of(protocol, "random"))
    told = [f"random dictionaries {spread(v.value for v in random)}"]
    for kind, words in (("pca", "PCA of k components"), ("neurons", "k neurons")):
        values = means(carrying, rows, key, partial(_is_of, kind, ks))
        told.append(f"{words} {spread(v.value for v in values)}")
    chosen = _of(protocol, "dictionary")
    told.append(
        f"models without training {spread(v.value for v in means(untrained, rows, key, chosen))}"
    )
    if key == "fvu":
        told += trends_told("models without training", means(untrained, rows, key, chosen), config)
    own = spread(v.value for v in means(carrying, rows, key, chosen))
    return f"Dictionaries {own}; {'; '.join(told)}."


def _doubt(key: str, protocol: str) -> str:
    told = (
        "Rows per latent are fixed, so wide dictionaries see more text; none is trained to "
        "convergence."
    )
    if protocol == EQUAL_COUNT:
        told += " F / d falls with the size here, so a rise is what a fixed budget costs."
    if key == "delta_ce":
        told += " A larger model has more to lose: clean losses are in the table."
    return told


def _protocol(config: Config) -> list[tuple[str, str]]:
    study = config.study
    return [
        (
            "Text",
            f"The same items for all models: {study.train_tokens:,} training and "
            f"{study.held_out_tokens:,} held-out tokens; first positions are left out.",
        ),
        ("Depth", f"The residual stream after {study.depth:.0%} of the blocks."),
        (
            "Dictionaries",
            f"TopK, {study.tokens_per_latent} rows per latent in steps of {study.batch_rows}, "
            f"peak learning rate {study.lr:g}, seeds {', '.join(map(str, study.seeds))}.",
        ),
        (
            "Equal F / d and L0 / d",
            f"F = {', '.join(map(str, study.expansions))} d; L0 = "
            f"{', '.join(f'{s:g}' for s in study.k_shares)} d, at least 2.",
        ),
        (
            "Equal F and L0",
            f"F = {', '.join(map(str, study.widths))}; L0 = {', '.join(map(str, study.ks))}.",
        ),
        (
            "Trends",
            "Least squares on ln parameters (embeddings included) of the mean over a model's "
            "dictionaries; groups are trained models (size and seed): drawn with replacement from "
            "8 on, left out in turn below. Overfitted and untrained models carry no verdict.",
        ),
    ]
