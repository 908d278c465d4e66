"""Whose dictionary a model's starts from: pairs of (source, target) that grow with the models.

    seeds           another seed of the target's size, in a ring
    smaller         the next smaller size of its architecture, the seed of the same place
    larger          the next larger size
    architectures   the nearest size of the architecture before or after, where one is near
    untrained       first weights of its size, not its own where there are two seeds: what a map
                    and text alone give

Every target is also a subject by itself, for the starts that need no source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.study import Subject
from bathyscope.stages.studies.verdicts import Row

SEEDS, SMALLER, LARGER = "seeds", "smaller", "larger"
ARCHITECTURES, UNTRAINED = "architectures", "untrained"
COMPARISONS = {
    SEEDS: "another seed of the same size",
    SMALLER: "the next smaller size",
    LARGER: "the next larger size",
    ARCHITECTURES: "another architecture of about the size",
    UNTRAINED: "a model of its size without training",
}
"""In the order of the page: what the source is."""
TRAINED = (SEEDS, SMALLER, LARGER, ARCHITECTURES)
NEAR = 1.5
"""Models of two architectures count as of one size up to this ratio of parameters."""


def subjects_of(members: Sequence[Member]) -> list[Subject]:
    """Every trained model by itself, then the pairs, source first."""
    trained = [m for m in members if m.trained]
    found = [Subject(m.name, (m,)) for m in trained]
    for target in trained:
        for source in _sources(target, members):
            found.append(Subject(f"{source.name} to {target.name}", (source, target)))
    return found


def comparison_of(row: Row) -> str:
    """What the source of a measured pair is, one of `COMPARISONS`."""
    if not row["source_trained"]:
        return UNTRAINED
    if row["source_architecture"] != row["architecture"]:
        return ARCHITECTURES
    if row["source_parameters"] == row["parameters"]:
        return SEEDS
    return SMALLER if row["source_parameters"] < row["parameters"] else LARGER


def _sources(target: Member, members: Sequence[Member]) -> Iterator[Member]:
    ladders = _ladders([m for m in members if m.trained])
    sizes = ladders[target.architecture]
    place = next(i for i, alike in enumerate(sizes) if target in alike)
    seed = sizes[place].index(target)
    if len(sizes[place]) > 1:
        yield sizes[place][(seed + 1) % len(sizes[place])]
    for other in (place - 1, place + 1):
        if 0 <= other < len(sizes):
            yield sizes[other][seed % len(sizes[other])]
    names = list(ladders)
    at = names.index(target.architecture)
    for other in (at - 1, at + 1):
        if 0 <= other < len(names):
            nearest = min(ladders[names[other]], key=lambda alike: _ratio(alike[0], target))
            if _ratio(nearest[0], target) <= NEAR:
                yield nearest[seed % len(nearest)]
    for untrained in members:
        size = (untrained.architecture, untrained.parameters)
        own = untrained.seed == target.seed and len(sizes[place]) > 1
        if not own and not untrained.trained and size == (target.architecture, target.parameters):
            yield untrained


def _ladders(members: Sequence[Member]) -> dict[str, list[list[Member]]]:
    """Members by architecture and size, in order; of one size by seed."""
    found: dict[str, dict[int, list[Member]]] = {}
    for member in sorted(members, key=lambda m: (m.architecture, m.parameters, m.seed or 0)):
        sizes = found.setdefault(member.architecture, {})
        sizes.setdefault(member.parameters, []).append(member)
    return {name: list(sizes.values()) for name, sizes in found.items()}


def _ratio(a: Member, b: Member) -> float:
    return math.exp(abs(math.log(a.parameters / b.parameters)))
