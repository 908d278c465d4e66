"""Which models are compared: a choice of pairs that grows with the models, not with their square.

Of each architecture with one tokenizer the sizes are taken in order, and seeds of one size in a
ring:

    dictionaries    a model with itself, by dictionaries of two seeds: the ceiling of all others
    seeds           one size, each seed with the next: the ceiling of other sizes and architectures
    adjacent        a size and the next one, each seed with the same and with the next seed
    far             the smallest size and each that is not next to it, in the same way
    architectures   a model and the nearest size of the architecture before, in the same way
    tokenizers      a model and the nearest size with the tokenizer before, of its architecture if
                    there is one, however near that is, in the same way
    training        a model without training and what it became
    untrained       adjacent sizes and architectures of models without training; and each of them
                    with itself, which is no ceiling

The first of a pair is the smaller one, where sizes differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from bathyscope.stages.studies.family import UNTRAINED
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.study import Subject
from bathyscope.stages.studies.verdicts import Row

DICTIONARIES, SEEDS, ADJACENT, FAR = "dictionaries", "seeds", "adjacent", "far"
ARCHITECTURES, TOKENIZERS = "architectures", "tokenizers"
TRAINING, NONE_TRAINED = "training", "untrained"
ITSELF_UNTRAINED = "untrained_dictionaries"
COMPARISONS = {
    DICTIONARIES: "one model, two dictionaries",
    SEEDS: "two seeds of one size",
    ADJACENT: "adjacent sizes",
    FAR: "far sizes",
    ARCHITECTURES: "two architectures",
    TOKENIZERS: "two tokenizers",
    TRAINING: "before and after training",
    NONE_TRAINED: "both without training",
    ITSELF_UNTRAINED: "two dictionaries of an untrained model",
}
"""In the order of the page, with the words for each."""
NEAR = 1.5
"""Models of two architectures count as of one size up to this ratio of parameters."""
_JOINED = "--"
Pair = tuple[Member, Member]


def pairs_of(members: Sequence[Member]) -> list[Subject]:
    """All subjects, each pair once; a subject of one member compares its dictionaries."""
    trained = [m for m in members if m.trained]
    untrained = [m for m in members if not m.trained]
    found = [Subject(f"{m.name}{_JOINED}{m.name}", (m,)) for m in members]
    chosen = [*_of_trained(trained), *_before(trained, untrained)]
    chosen += [*_across(_ladders(untrained)), *_between(_ladders(untrained))]
    for pair in chosen:
        a, b = sorted(pair, key=lambda m: (m.parameters, m.trained, m.seed or 0))
        subject = Subject(f"{a.name}{_JOINED}{b.name}", (a, b))
        if subject.name not in {each.name for each in found}:
            found.append(subject)
    return found


def comparison_of(row: Row, sizes: Sequence[int]) -> str:
    """The kind of a measured pair, one of `COMPARISONS`.

    `sizes` are those of a's architecture and tokenizer, sorted.
    """
    if row["model_a"] == row["model_b"]:
        return DICTIONARIES if row["trained_a"] else ITSELF_UNTRAINED
    trained = row["trained_a"] + row["trained_b"]
    if trained < 2:
        return TRAINING if trained else NONE_TRAINED
    if row.get("tokenizer_a") != row.get("tokenizer_b"):
        return TOKENIZERS
    if row["architecture_a"] != row["architecture_b"]:
        return ARCHITECTURES
    apart = sizes.index(row["parameters_b"]) - sizes.index(row["parameters_a"])
    return {0: SEEDS, 1: ADJACENT}.get(apart, FAR)


def _of_trained(members: Sequence[Member]) -> Iterator[Pair]:
    ladders = _ladders(members)
    for sizes in ladders:
        for alike in sizes:
            yield from _next(alike, alike)
    yield from _across(ladders)
    for sizes in ladders:
        for large in sizes[2:]:
            yield from _same_and_next(sizes[0], large)
    yield from _between(ladders)


def _across(ladders: Sequence[Sequence[list[Member]]]) -> Iterator[Pair]:
    """Adjacent sizes of each architecture."""
    for sizes in ladders:
        for small, large in pairwise(sizes):
            yield from _same_and_next(small, large)


def _between(ladders: Sequence[Sequence[list[Member]]]) -> Iterator[Pair]:
    """Each size of an architecture and the nearest one of the architecture before.

    The same of tokenizers, whatever the ratio: between few models there may be no nearer one.
    """
    by_corpus: dict[str, list[Sequence[list[Member]]]] = {}
    for sizes in ladders:
        by_corpus.setdefault(sizes[0][0].corpus or "", []).append(sizes)
    for own in by_corpus.values():
        for before, after in pairwise(own):
            for alike in after:
                nearest = _nearest(before, alike)
                if _ratio(nearest[0], alike[0]) <= NEAR:
                    yield from _same_and_next(nearest, alike)
    for others, own in pairwise(by_corpus[corpus] for corpus in sorted(by_corpus)):
        for after in own:
            alike_ones = [o for o in others if o[0][0].architecture == after[0][0].architecture]
            choice = [alike for sizes in alike_ones or others for alike in sizes]
            for alike in after:
                yield from _same_and_next(_nearest(choice, alike), alike)


def _nearest(sizes: Sequence[list[Member]], alike: Sequence[Member]) -> list[Member]:
    return min(sizes, key=lambda other: _ratio(other[0], alike[0]))


def _before(trained: Sequence[Member], untrained: Sequence[Member]) -> Iterator[Pair]:
    """First weights and what they became."""
    by_name = {m.name: m for m in trained}
    for member in untrained:
        became = by_name.get(member.name.removesuffix(f"-{UNTRAINED}"))
        if became is not None:
            yield member, became


def _same_and_next(first: Sequence[Member], second: Sequence[Member]) -> Iterator[Pair]:
    """Each of the first with the second of the same place, and with the one after that."""
    yield from zip(first, second, strict=False)
    yield from _next(first, second)


def _next(first: Sequence[Member], second: Sequence[Member]) -> Iterator[Pair]:
    """In a ring; a place that would meet itself is left out."""
    for place, member in enumerate(first):
        other = second[(place + 1) % len(second)]
        if other != member and (len(second) > 1 or first is second):
            yield member, other


def _ladders(members: Sequence[Member]) -> list[list[list[Member]]]:
    """Members by architecture with one tokenizer, and size, in order; of one size by seed."""
    found: dict[tuple[str, str], dict[int, list[Member]]] = {}
    for member in sorted(members, key=lambda m: (m.architecture, m.parameters, m.seed or 0)):
        sizes = found.setdefault((member.architecture, member.corpus or ""), {})
        sizes.setdefault(member.parameters, []).append(member)
    return [list(sizes.values()) for sizes in found.values()]


def _ratio(a: Member, b: Member) -> float:
    return math.exp(abs(math.log(a.parameters / b.parameters)))
