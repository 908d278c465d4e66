"""What the pairs show: do sizes, seeds and architectures find the same latents?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.pair_intervals import (
    Spread,
    below_ceiling,
    kind_of,
    less_kind,
    mean_of,
    over_models,
    slope_of,
)
from bathyscope.stages.studies.universality.crosscoder import EQUAL
from bathyscope.stages.studies.universality.pairs import (
    ADJACENT,
    ARCHITECTURES,
    COMPARISONS,
    DICTIONARIES,
    FAR,
    NONE_TRAINED,
    SEEDS,
    TOKENIZERS,
    TRAINING,
)
from bathyscope.stages.studies.universality.told import (
    alignment,
    by_spans,
    counted_spans,
    judged_pairs,
    nothing,
    of_kind,
    seeded,
    sign,
    signed,
    told,
    verdict,
)
from bathyscope.stages.studies.verdicts import Row

MARGIN = 0.05
"""A correlation less than this below the ceiling counts as equal to it."""


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """All claims; one whose pairs are not there is said to be not measured."""
    own = judged_pairs(rows)
    across = [TOKENIZERS] if of_kind(own, TOKENIZERS) else []
    found = [_above_floor(own, kind) for kind in (ADJACENT, *across)]
    if any(row.get("partial_mean") is not None for row in own):
        found += [_beyond_token(own, kind) for kind in (ADJACENT, *across)]
    found += [_as_seeds(own, kind) for kind in (ADJACENT, FAR, ARCHITECTURES, *across)]
    for kind in sorted({kind_of(row, "a") for row in own}):
        alike = [r for r in own if kind_of(r, "a") == kind_of(r, "b") == kind]
        name = _named(alike, own)
        found.append(_with_size(alike, name, SEEDS))
        found.append(_with_size(alike, name, ADJACENT))
    found += [_with_ratio(own), _common(own), _overstated(own), _trained(own)]
    return _told_by_spans(found, own)


def _named(alike: Sequence[Row], rows: Sequence[Row]) -> str:
    """An architecture, with its vocabulary where another one has been compared too."""
    name = str(alike[0]["architecture_a"])
    if not of_kind(rows, TOKENIZERS):
        return name
    return f"{name}, vocabulary {alike[0]['vocabulary_a']:,}"


def _told_by_spans(found: list[Verdict], rows: Sequence[Row]) -> list[Verdict]:
    """Verdicts that say what their rows are, where these are spans of text."""
    if not by_spans(rows):
        return found
    return [replace(each, doubt=f"{each.doubt} {counted_spans(rows)}") for each in found]


def _above_floor(rows: Sequence[Row], kind: str) -> Verdict:
    pairs = of_kind(rows, kind)
    floor, words = _floor_of(pairs)
    doubt = "A larger model has more latents to choose from."
    if floor == "token_floor_mean":
        doubt += (
            " The floor may lie above the score: the mean of a token has not the noise of which k "
            "latents were taken. It is fitted on as many training rows as the match; more text "
            "would lift it."
        )
    where = {ADJACENT: "in the next size", TOKENIZERS: "under another tokenizer"}[kind]
    controls = [
        f"One to one {told(rows, 'matched_mean', kind)}",
        f"floor {told(rows, floor, kind)}",
        f"shuffled rows {told(rows, 'shuffled_rows_mean', kind)}",
        f"shuffled documents {told(rows, 'shuffled_documents_mean', kind)}",
        f"two dictionaries of one model {told(rows, 'matched_mean', DICTIONARIES)}",
    ]
    return signed(
        f"Latents of a model are found again {where}, above what {words} gives.",
        over_models(pairs, mean_of("matched_mean", floor)),
        unit="correlation, one to one, above the floor",
        controls="; ".join(controls) + ".",
        doubt=doubt,
        would_change="A floor of more text, or of the last two tokens, that reaches the score.",
    )


def _floor_of(pairs: Sequence[Row]) -> tuple[str, str]:
    """The strictest floor that was measured: images have no tokens, and may be of one document."""
    token = "the tokens of the span alone" if by_spans(pairs) else "the current token alone"
    for floor, words in (
        ("token_floor_mean", token),
        ("shuffled_documents_mean", "a shuffle of documents"),
    ):
        if any(row.get(floor) is not None for row in pairs):
            return floor, words
    return "shuffled_rows_mean", "a shuffle of rows"


def _beyond_token(rows: Sequence[Row], of: str) -> Verdict:
    controls = [
        f"{COMPARISONS[kind]} {told(rows, 'partial_mean', kind)}"
        for kind in (DICTIONARIES, SEEDS, FAR, ARCHITECTURES, NONE_TRAINED)
    ]
    token = "mean of the span's tokens" if by_spans(rows) else "current token's mean"
    return signed(
        f"Latents of {COMPARISONS[of]} still agree when the {token} is taken from both.",
        over_models(of_kind(rows, of), mean_of("partial_mean")),
        unit="partial correlation, one to one",
        controls="; ".join(controls).capitalize() + ".",
        doubt="The rest may be the token before: only the current one is taken away. A latent of "
        "one token only has no rest and scores 0.",
        would_change="A mean per pair of tokens that leaves nothing.",
    )


def _as_seeds(rows: Sequence[Row], comparison: str) -> Verdict:
    words = COMPARISONS[comparison].capitalize()
    key = "matched_mean"
    both = of_kind(rows, comparison, SEEDS)
    statistic = below_ceiling(key, comparison, SEEDS)
    found = over_models(both, statistic, of_kind(rows, comparison))
    beyond = over_models(
        both, below_ceiling("partial_mean", comparison, SEEDS), of_kind(rows, comparison)
    )
    answer = "not shown"
    if math.isnan(found.value):
        answer = "not measured"
    elif found.high < -MARGIN:
        answer = "no"
    elif found.low > -MARGIN:
        answer = "yes"
    controls = (
        f"{COMPARISONS[comparison].capitalize()} {told(rows, key, comparison)}; "
        f"two seeds {told(rows, key, SEEDS)}; two dictionaries of one model "
        f"{told(rows, key, DICTIONARIES)}; the difference beyond the token {beyond.told()}; "
        f"of one seed {seeded(rows, comparison, same=True)}, of two "
        f"{seeded(rows, comparison, same=False)}."
    )
    return verdict(
        f"{words} agree as much as two seeds of one size do.",
        answer,
        found,
        unit="correlation, less that of two seeds",
        controls=controls,
        doubt=f"Equal is a difference above -{MARGIN:g}. A larger partner has more latents to "
        f"choose from, which two seeds have not." + _ratio_of(rows, comparison),
        would_change="More seeds, or dictionaries trained so long that two of one model agree "
        "wholly.",
    )


def _ratio_of(rows: Sequence[Row], comparison: str) -> str:
    """How far sizes differ between two tokenizers, where the nearest ones may not be near."""
    ratios = [row["size_ratio"] for row in of_kind(rows, comparison)]
    if comparison != TOKENIZERS or not ratios:
        return ""
    return (
        f" Sizes differ {max(ratios):.3g} times at most, and the text of training may too. "
        f"{alignment(rows)}"
    )


def _with_size(rows: Sequence[Row], architecture: str, comparison: str) -> Verdict:
    pairs = of_kind(rows, comparison)
    sizes = sorted({row["parameters"] for row in pairs})
    x = partial(over_models, pairs)
    enough = len(sizes) > 2
    found = x(slope_of("matched_mean", "parameters")) if enough else nothing(pairs)
    ceiling = over_models(of_kind(rows, DICTIONARIES), slope_of("matched_mean", "parameters"))
    others = {
        "partial correlation": x(slope_of("partial_mean", "parameters")),
        "debiased CKA": x(slope_of("cka", "parameters")),
        "two dictionaries of one model": ceiling,
    }
    few = f"Sizes of pairs that differ: {len(sizes)}" + ("" if enough else ", three are wanted")
    return signed(
        f"{architecture}: larger models agree more, {COMPARISONS[comparison]}.",
        found,
        unit="correlation per tenfold parameters",
        controls="The same slope of "
        + "; ".join(f"{name}: {each.told()}" for name, each in others.items())
        + ".",
        doubt=f"{few}. Dictionaries of larger models are wider and may be trained less well: see "
        f"the slope of two dictionaries of one model.",
        would_change="The opposite sign with more seeds, or where dictionaries are trained to "
        "convergence.",
    )


def _with_ratio(rows: Sequence[Row]) -> Verdict:
    pairs = of_kind(rows, SEEDS, ADJACENT, FAR)
    found = over_models(pairs, slope_of("cka", "size_ratio"))
    latents = over_models(pairs, slope_of("matched_mean", "size_ratio"))
    canonical = over_models(pairs, slope_of("svcca", "size_ratio"))
    answer = sign(Spread(-found.value, -found.high, -found.low, 0, 0))
    return verdict(
        "The more two models of one architecture differ in size, the less alike are their rows.",
        answer,
        found,
        unit="debiased CKA per tenfold ratio of parameters",
        controls=f"The same slope of SVCCA: {canonical.told()}; of latents one to one: "
        f"{latents.told()}. Debiased CKA of shuffled documents "
        f"{told(rows, 'cka_shuffled_documents', ADJACENT, FAR)}, of a model before and after "
        f"training {told(rows, 'cka', TRAINING)}.",
        doubt="CKA is carried by the few directions of largest variance; far sizes all share the "
        "smallest model.",
        would_change="A rise with pairs that do not share the smallest model.",
    )


def _common(rows: Sequence[Row]) -> Verdict:
    kinds = (SEEDS, ADJACENT, FAR, ARCHITECTURES, TRAINING, NONE_TRAINED)
    controls = [f"{COMPARISONS[kind]} {told(rows, 'crosscoder_equal', kind)}" for kind in kinds]
    exclusive = [
        f"{side} {told(rows, f'crosscoder_{side}_exclusive', SEEDS, ADJACENT, ARCHITECTURES)}"
        for side in "ab"
    ]
    return signed(
        "A crosscoder of adjacent sizes shares its latents, more than one of shuffled documents.",
        over_models(
            of_kind(rows, ADJACENT),
            mean_of("crosscoder_equal", "crosscoder_equal_shuffled_documents"),
        ),
        unit=f"share of latents with a relative norm of {EQUAL[0]:g} to {EQUAL[1]:g}, above the "
        "floor",
        controls=f"{'; '.join(controls)}; floor between adjacent sizes "
        f"{told(rows, 'crosscoder_equal_shuffled_documents', ADJACENT)}; exclusive by norm and by "
        f"latent scaling, of pairs of one width, {' and '.join(exclusive)}.".capitalize(),
        doubt="A crosscoder is trained on both and prefers what serves both; its latents may stand "
        "for the current token, which is not taken away here. Few rows: norms start equal, and "
        "one trained longer would tell more apart, as the floor shows.",
        would_change="Norms that part with more training, where the floor parts too.",
    )


def _overstated(rows: Sequence[Row]) -> Verdict:
    pairs = of_kind(rows, SEEDS, ADJACENT, FAR, ARCHITECTURES)
    controls = [
        f"{COMPARISONS[kind]} {told(rows, 'overstated', kind)}"
        for kind in (DICTIONARIES, SEEDS, ADJACENT, FAR, ARCHITECTURES)
    ]
    return signed(
        "The one-sided score, each latent's best partner whoever else has it, overstates.",
        over_models(pairs, mean_of("overstated")),
        unit="correlation, one-sided less one to one",
        controls="; ".join(controls).capitalize() + ".",
        doubt="Both are chosen on training rows and scored on held-out rows, so this is the reuse "
        "of partners alone; a best partner chosen on the scored rows would be higher still.",
        would_change="A difference of 0 where dictionaries have many more latents than needed.",
    )


def _trained(rows: Sequence[Row]) -> Verdict:
    rows = [row for row in rows if kind_of(row, "a") == kind_of(row, "b")]
    both = of_kind(rows, ADJACENT, NONE_TRAINED)

    own = of_kind(rows, ADJACENT)
    found = over_models(both, less_kind("matched_mean", ADJACENT, NONE_TRAINED), own)
    beyond = over_models(both, less_kind("partial_mean", ADJACENT, NONE_TRAINED), own)
    rowwise = over_models(both, less_kind("cka", ADJACENT, NONE_TRAINED), own)
    return signed(
        "Training makes adjacent sizes agree more than their first weights do.",
        found,
        unit="correlation, trained less untrained",
        controls=f"Trained {told(rows, 'matched_mean', ADJACENT)}, untrained "
        f"{told(rows, 'matched_mean', NONE_TRAINED)}, before and after training "
        f"{told(rows, 'matched_mean', TRAINING)}. The difference beyond the token: "
        f"{beyond.told()}; of debiased CKA: {rowwise.told()}.",
        doubt="A model without training passes its tokens on almost unchanged, so that its latents "
        "are tokens and match well: read it beyond the token. The untrained side is taken as it "
        "is.",
        would_change="Untrained models that agree as much beyond the token.",
    )
