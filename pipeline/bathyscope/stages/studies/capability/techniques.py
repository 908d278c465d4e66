"""The techniques that the study judges: which figure of a model says how well each works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bathyscope.stages.studies.capability.graphs import EXCHANGED, GRAPH, TRANSCODER
from bathyscope.stages.studies.capability.patching import ATP, CHANGE, OTHER, PATCHING, STAR
from bathyscope.stages.studies.capability.probe_figures import DENSE, FLOOR, PROBES
from bathyscope.stages.studies.capability.probing import KS, SHUFFLED
from bathyscope.stages.studies.capability.recovered import RECOVERED
from bathyscope.stages.studies.coders import DICTIONARY, NEURONS, PCA, RANDOM
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.protocols import EQUAL_COUNT, EQUAL_RATIO, PROTOCOLS
from bathyscope.stages.studies.verdicts import Of, Row, means
from bathyscope.studies.token_labels import CONTEXT, TOKEN

Where = Mapping[str, Any]


class Figure(NamedTuple):
    """A column of some rows, and what it is called."""

    words: str
    key: str
    where: Where
    """Columns and the values that rows must have there."""
    rival: bool = False
    """Whether the technique should give more than this control."""


class Technique(NamedTuple):
    """What is judged: the more of it, the better the technique works."""

    subject: str
    """As in "`subject` rises with the size"."""
    short: str
    """In tables and titles of plots."""
    kind: str
    protocol: str | None
    figure: Figure
    unit: str
    controls: tuple[Figure, ...]
    doubt: str
    would_change: str

    def values(
        self, members: Sequence[Member], rows: Sequence[Row], figure: Figure | None = None
    ) -> list[Of]:
        """The figure, or one of the controls, of each member that has it."""
        chosen = figure or self.figure
        return means(members, rows, chosen.key, self._passes(chosen))

    def rows_of(self, member: Member, rows: Sequence[Row]) -> list[Row]:
        """The rows of a member that its figure is the mean of."""
        passes = self._passes(self.figure)
        return [row for row in rows if row["member"] == member.name and passes(row)]

    def _passes(self, figure: Figure) -> Callable[[Row], bool]:
        def passes(row: Row) -> bool:
            return (
                row["kind"] == self.kind
                and (self.protocol is None or self.protocol in (row.get("protocols") or ()))
                and all(row.get(name) == value for name, value in figure.where.items())
            )

        return passes


def _recovered(protocol: str, key: str, subject: str, short: str, unit: str) -> Technique:
    kinds = (
        (PCA, "PCA of k components"),
        (NEURONS, "k coordinates"),
        (RANDOM, "random directions"),
    )
    own = {"representation": DICTIONARY}
    controls = [Figure(words, key, {"representation": kind}, True) for kind, words in kinds]
    if key == "loss_recovered_mean":
        controls.append(Figure("against zero ablation", "loss_recovered_zero", own))
    return Technique(
        f"{subject} at {PROTOCOLS[protocol]}",
        f"{short}, {PROTOCOLS[protocol]}",
        RECOVERED,
        protocol,
        Figure("dictionaries", key, own),
        unit,
        tuple(controls),
        "One hook point; the baseline puts the mean over training rows in its "
        "place, and rows per latent are fixed, so that none is trained to convergence.",
        "The opposite sign with dictionaries that are trained to convergence, or at other depths.",
    )


def _probed(protocol: str, key: str, subject: str, short: str, unit: str) -> Technique:
    most = max(KS)
    asked = {"label_group": CONTEXT}

    def of(kind: str, columns: int = most, group: str = CONTEXT) -> Where:
        return {"representation": kind, "columns": columns, "label_group": group}

    controls = [
        Figure("one latent", key, of(DICTIONARY, min(KS))),
        Figure(f"{most} coordinates", key, of(NEURONS), True),
        Figure(f"{most} PCA coordinates", key, of(PCA), True),
        Figure(f"{most} latents of a random dictionary", key, of(RANDOM), True),
        Figure("shuffled labels", key, of(SHUFFLED), True),
        Figure("labels of the current token", key, of(DICTIONARY, group=TOKEN)),
        Figure("balanced accuracy of all coordinates", "balanced_accuracy",
               {**asked, "representation": DENSE}),
        Figure("of the current token alone", "balanced_accuracy",
               {**asked, "representation": FLOOR}),
    ]  # fmt: skip
    return Technique(
        f"{subject} at {PROTOCOLS[protocol]}",
        f"{short}, {PROTOCOLS[protocol]}",
        PROBES,
        protocol,
        Figure(f"{most} latents", key, of(DICTIONARY)),
        unit,
        tuple(controls),
        "Labels are simple ones that any text has. Where the current token alone comes as far, the "
        "latents need not know more than the token: the table of labels has both.",
        "The opposite sign with labels of meaning, or with dictionaries of more latents.",
    )


_SHARE = "the share of the loss that dictionaries recover"
_LATENTS = f"{max(KS)} latents"
_PAIRS = (
    "Pairs differ in one of the last tokens; every head and MLP is one node, and larger models "
    "have more heads, so more nodes."
)
TECHNIQUES = (
    _recovered(EQUAL_RATIO, "loss_recovered_mean", _SHARE, "loss recovered", "share of the loss"),
    _recovered(EQUAL_COUNT, "loss_recovered_mean", _SHARE, "loss recovered", "share of the loss"),
    _recovered(
        EQUAL_RATIO, "nats_recovered", "the amount of loss that dictionaries recover",
        "nats recovered", "nats per token",
    ),
    _probed(
        EQUAL_RATIO, "share_of_dense",
        f"the share of what a dense probe tells of context that {_LATENTS} tell",
        "sparse probing, share", "share of the dense probe's accuracy above 1/2",
    ),
    _probed(
        EQUAL_COUNT, "share_of_dense",
        f"the share of what a dense probe tells of context that {_LATENTS} tell",
        "sparse probing, share", "share of the dense probe's accuracy above 1/2",
    ),
    _probed(
        EQUAL_RATIO, "above_chance", f"the amount that {_LATENTS} tell of context",
        "sparse probing, amount", "balanced accuracy above 1/2",
    ),
    Technique(
        "what a dense probe tells of context beyond the current token",
        "dense probing beyond the token",
        PROBES,
        None,
        Figure(
            "all coordinates",
            "beyond_token",
            {"representation": DENSE, "label_group": CONTEXT},
        ),
        "balanced accuracy above that of the token",
        (
            Figure("labels of the current token", "beyond_token",
                   {"representation": DENSE, "label_group": TOKEN}),
            Figure("all coordinates above 1/2", "above_chance",
                   {"representation": DENSE, "label_group": CONTEXT}),
            Figure("the token alone above 1/2", "above_chance",
                   {"representation": FLOOR, "label_group": CONTEXT}),
        ),
        "Wider models have more coordinates: what is told need not be used. The floor counts every "
        "token by itself, which a probe of few dimensions cannot copy, so it may lie above one.",
        "The opposite sign with as many coordinates in all models, chosen by PCA.",
    ),
    Technique(
        "the agreement of attribution patching with exact patching",
        "AtP against exact patching", PATCHING, None,
        Figure("AtP", "pearson", {"method": ATP}), "Pearson's correlation",
        (Figure("scores of another pair", "pearson", {"method": OTHER}, True),
         Figure("AtP by ranks", "spearman", {"method": ATP}),
         Figure("relative error of AtP", "relative_error", {"method": ATP})),
        _PAIRS, "The opposite sign with nodes at each position, or with pairs from a task.",
    ),
    Technique(
        "the agreement of AtP* with exact patching",
        "AtP* against exact patching", PATCHING, None,
        Figure("AtP*", "spearman", {"method": STAR}), "Spearman's correlation of magnitudes",
        (Figure("how much a node changes", "spearman", {"method": CHANGE}, True),
         Figure("AtP* by values", "pearson", {"method": STAR})),
        f"{_PAIRS} AtP* has no sign, so magnitudes are compared.",
        "The opposite sign with nodes at each position, or with pairs from a task.",
    ),
    Technique(
        "the replacement score of attribution graphs",
        "replacement score", GRAPH, None,
        Figure("transcoders", "replacement", {"representation": TRANSCODER}), "replacement score",
        (Figure("decoder rows exchanged", "replacement", {"representation": EXCHANGED}, True),
         Figure("completeness", "completeness", {"representation": TRANSCODER}),
         Figure("completeness, decoder rows exchanged", "completeness",
                {"representation": EXCHANGED})),
        "One transcoder per block of equal F / d and equal L0, none trained to convergence; the "
        "score is no monotone function of what a replaced model loses.",
        "The opposite sign with transcoders of equal L0 / d, or trained on ten times the rows.",
    ),
)  # fmt: skip
