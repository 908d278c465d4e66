"""What the curves show: does another model's dictionary save tokens, and more than its controls?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bathyscope.config import Config
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.protocols import EQUAL_RATIO
from bathyscope.stages.studies.second.needed import map_tokens
from bathyscope.stages.studies.second.pairs import (
    COMPARISONS,
    LARGER,
    SEEDS,
    SMALLER,
    TRAINED,
    UNTRAINED,
)
from bathyscope.stages.studies.second.reach import against
from bathyscope.stages.studies.second.spreads import Spread, censored_told, ratio_of, spread_of
from bathyscope.stages.studies.second.starts import (
    ITSELF,
    MAPPED,
    PCA,
    ROTATED,
    ROTATED_COVARIANCE,
    SCRATCH,
    SHUFFLED,
    TIED,
)
from bathyscope.stages.studies.second.told import Judged, sentence, verdict
from bathyscope.stages.studies.verdicts import Of, Row, training_told, trend_verdict
from bathyscope.stages.studies.verdicts import judged as judged_members


def verdicts(config: Config, members: Sequence[Member], records: Sequence[Row]) -> list[Verdict]:
    """All claims; one whose pairs are not there is said to be not measured."""
    own = Judged(config, records)
    doubt = training_told(judged_members(members))
    found = [_than_scratch(own, kind, doubt) for kind in TRAINED]
    found += [
        _than(
            own,
            PCA,
            "A mapped start needs fewer tokens than one from principal directions of as many rows.",
            "Principal directions need no other model, and cost as many rows as the map.",
        ),
        _than(
            own,
            ROTATED_COVARIANCE,
            "It is the latents that help: turned at random with the covariance kept, a mapped "
            "start needs more tokens.",
            "The turned start has the same number of directions, lengths and covariance.",
        ),
        _than_untrained(own),
        _larger_source(own),
        _ahead_at_the_end(own),
    ]
    for kind in (SEEDS, SMALLER):
        found += _with_size(own, members, kind)
    return [*found, _at_equal_ratio(config, records)]


def _than_scratch(own: Judged, kind: str, doubt: str) -> Verdict:
    records = own.at(MAPPED, kind)
    others = [
        f"with a map of {n:,} rows {ratio_of(own.at(MAPPED, kind, n=n), own.config).told()}"
        for n in map_tokens(own.config)
        if n != own.n
    ]
    controls = [
        f"Without the rows of the map {own.told(MAPPED, kind, key='saving_in_training')}",
        *others,
        f"to the loss of a sixteenth of the training {own.at_share(1 / 16, kind)}, of an eighth "
        f"{own.at_share(1 / 8, kind)}, of all of it {own.at_share(1.0, kind)}",
        f"principal directions {own.told(PCA)}",
        f"source without training {own.told(MAPPED, UNTRAINED)}",
        f"map of shuffled rows {own.told(SHUFFLED, kind)}",
        f"encoder from the decoder {own.told(TIED, kind)}",
        f"the most that can be hoped for: {own.itself_told()}",
        f"one seed from scratch against the mean of all {own.told(SCRATCH)}",
    ]
    return verdict(
        f"From the dictionary of {COMPARISONS[kind]} a dictionary needs fewer tokens than from "
        "scratch.",
        ratio_of(records, own.config),
        records,
        controls=sentence(controls),
        doubt="To the loss that scratch has at half of its training. The source's own training is "
        f"not counted. One rate serves all starts, {own.config.study.lr:g}, and is not sought out "
        f"as the best of any: a higher one may leave less to be saved. {doubt}".rstrip(),
        would_change="A ratio whose interval reaches 1 with more sizes, a longer training, or the "
        "best rate for each start by itself.",
    )


def _than(own: Judged, start: str, claim: str, doubt: str) -> Verdict:
    mapped = own.at(MAPPED, *TRAINED)
    records = against(mapped, own.at(start))
    told = []
    for other in (PCA, ROTATED_COVARIANCE, ROTATED, SHUFFLED):
        if other != start:
            ratio = ratio_of(against(mapped, own.at(other)), own.config)
            told.append(f"against {_WORDS[other]} {ratio.told()}")
    by_kind = [
        f"from {COMPARISONS[kind]} "
        f"{ratio_of(against(own.at(MAPPED, kind), own.at(start)), own.config).told()}"
        for kind in (*TRAINED, UNTRAINED)
    ]
    return verdict(
        claim,
        ratio_of(records, own.config),
        records,
        controls=sentence([*by_kind, *told]),
        doubt=doubt,
        would_change="A ratio whose interval reaches 1 with another number of rows for both.",
    )


_WORDS = {
    PCA: "principal directions",
    ROTATED_COVARIANCE: "turned with the covariance kept",
    ROTATED: "turned by any rotation",
    SHUFFLED: "a map of shuffled rows",
}


def _than_untrained(own: Judged) -> Verdict:
    records = against(own.at(MAPPED, SEEDS), own.at(MAPPED, UNTRAINED))
    return verdict(
        "It is the source's training that helps: a mapped start from a model of the same size "
        "without training needs more tokens.",
        ratio_of(records, own.config),
        records,
        controls=f"Another seed {own.told(MAPPED, SEEDS)}, source without training "
        f"{own.told(MAPPED, UNTRAINED)}, both against scratch. Turned with the covariance kept, "
        f"source without training {own.told(ROTATED_COVARIANCE, UNTRAINED)}.",
        doubt="A model without training passes its tokens on almost unchanged: its dictionary is "
        "one of tokens, which the target also holds. Of each size one model's first weights are "
        "kept, so only targets of the other seeds are compared.",
        would_change="A source without training that helps as much.",
    )


def _larger_source(own: Judged) -> Verdict:
    records = against(own.at(MAPPED, LARGER), own.at(MAPPED, SMALLER))
    return verdict(
        "A larger source helps more than a smaller one, for the same target.",
        ratio_of(records, own.config),
        records,
        controls=f"From the next larger {own.told(MAPPED, LARGER)}, from the next smaller "
        f"{own.told(MAPPED, SMALLER)}, all targets; only those with both are compared.",
        doubt="At equal F the larger source's dictionary has fewer latents for each dimension.",
        would_change="The opposite sign at equal F / d.",
    )


def _ahead_at_the_end(own: Judged) -> Verdict:
    told = [
        f"from {COMPARISONS[kind]} {_ahead(own, own.at(MAPPED, kind)).told()}"
        for kind in (*TRAINED, UNTRAINED)
    ]
    told += [
        f"{words} {_ahead(own, own.at(start)).told()}"
        for start, words in (
            (PCA, "principal directions"),
            (ROTATED_COVARIANCE, "turned with the covariance kept"),
            (SHUFFLED, "map of shuffled rows"),
            (ITSELF, "its own dictionary of another seed"),
        )
    ]
    records = own.at(MAPPED, *TRAINED)
    return verdict(
        "A mapped start is still ahead at the end of the training, not only early.",
        _ahead(own, records),
        records,
        key="ahead",
        unit="FVU below that from scratch",
        controls=sentence(told),
        doubt="The rate does not fall, so that neither is at its best. Rows of the map are not "
        "counted here: after as many training rows.",
        would_change="A difference that goes to 0 in a longer training.",
    )


def _ahead(own: Judged, records: Sequence[Row]) -> Spread:
    return spread_of(records, "ahead", own.config)


def _with_size(own: Judged, members: Sequence[Member], kind: str) -> list[Verdict]:
    records, by_name = own.at(MAPPED, kind), {m.name: m for m in members}
    values = [
        Of(by_name[name], float(np.mean([r["saving"] for r in records if r["target"] == name])))
        for name in dict.fromkeys(r["target"] for r in records)
        if name in by_name
    ]
    ends = [
        f"{r['target']} {2 ** r['saving']:.3g}"
        for r in sorted(records, key=lambda r: (r["architecture"], r["parameters"]))
    ]
    return trend_verdict(
        f"the saving from {COMPARISONS[kind]} grows with the size of the target.",
        values,
        own.config,
        wanted="rises",
        unit="doublings (log2 of the ratio of tokens)",
        controls=f"Times fewer tokens, by target: {', '.join(ends)}.",
        doubt=" ".join(
            filter(
                None,
                [
                    censored_told(records),
                    "At equal F larger targets have fewer latents for each dimension.",
                    training_told(judged_members(members)),
                ],
            )
        ),
        would_change="A slope whose interval reaches 0 with more sizes, or at equal tokens per "
        "parameter.",
    )


def _at_equal_ratio(config: Config, records: Sequence[Row]) -> Verdict:
    own = Judged(config, records, EQUAL_RATIO)
    some = own.at(MAPPED, SMALLER, LARGER)
    beyond = ratio_of(against(some, own.at(ROTATED_COVARIANCE)), config)
    return verdict(
        "At equal F / d and L0 / d too, a dictionary from an adjacent size needs fewer tokens "
        "than from scratch.",
        ratio_of(some, config),
        some,
        controls=f"From the next smaller size, with the missing latents as from scratch, "
        f"{own.told(MAPPED, SMALLER)}; from the next larger, of which the most used latents are "
        f"taken, {own.told(MAPPED, LARGER)}; principal directions {own.told(PCA)}; against turned "
        f"with the covariance kept {beyond.told()}.",
        doubt="The number of latents changes with the map, so part of the start is not the "
        "source's.",
        would_change="A ratio whose interval reaches 1 with more sizes.",
    )
