"""Models of a family at equal training, as verdicts read them.

A trend over size of last weights is also one over training, where larger models read fewer tokens
for each parameter. Checkpoints between the first weights and the last can be compared at an equal
ratio; the last ones are left out on all sides, as their learning rate has mostly come to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from bathyscope.stages.studies.member import Checkpoint, Member
from bathyscope.stages.studies.verdicts import Of, by_architecture, judged, training_told
from bathyscope.studies.equal_training import around, at_tokens, common_ratio

FEWEST_SIZES = 3
"""Of an architecture that can carry a trend."""
Curve = Callable[[Member], Sequence[tuple[int, float]]]
"""(tokens, value) along the training of a member, as far as it was measured."""
DOUBT = (
    "None is at its last weights there, and learning rates are at different parts of their "
    "schedules. Values lie on a straight line in ln tokens between checkpoints."
)


def between(member: Member) -> list[Checkpoint]:
    """Checkpoints after the first weights and before the last, by rising tokens."""
    found = [
        c
        for c in member.checkpoints
        if c.tokens > 0 and (member.tokens is None or c.tokens < member.tokens)
    ]
    return sorted(found, key=lambda c: c.tokens)


def ratios(members: Sequence[Member]) -> dict[str, Fraction]:
    """By architecture the tokens per parameter at which all of its sizes can be compared.

    Without those of fewer than three sizes, those whose last weights are at one ratio already, and
    those whose checkpoints share none.
    """
    found = {}
    for name, alike in _groups(members).items():
        if len({m.parameters for m in alike}) < FEWEST_SIZES or not training_told(alike):
            continue
        ratio = common_ratio(
            [m.parameters for m in alike], [[c.tokens for c in between(m)] for m in alike]
        )
        if ratio is not None:
            found[name] = ratio
    return found


def needed(member: Member, ratio: Fraction) -> list[Checkpoint]:
    """The checkpoints around a ratio: one or two."""
    inner = between(member)
    wanted = around([c.tokens for c in inner], ratio * member.parameters)
    return [c for c in inner if c.tokens in wanted]


def at_ratios(
    members: Sequence[Member], found: Mapping[str, Fraction], curve: Curve
) -> dict[str, list[Of]]:
    """By architecture the value of each member at its ratio; members not measured there are out."""
    values: dict[str, list[Of]] = {}
    for name, alike in _groups(members).items():
        if name not in found:
            continue
        for member in alike:
            wanted = {c.tokens for c in needed(member, found[name])}
            points = [(tokens, value) for tokens, value in curve(member) if tokens in wanted]
            if {tokens for tokens, _ in points} == wanted:
                value = at_tokens(points, found[name] * member.parameters)
                values.setdefault(name, []).append(Of(member, value))
    return values


def ratio_words(ratio: Fraction) -> str:
    """1.4 tokens per parameter."""
    return f"{float(ratio):.2g} tokens per parameter"


def _groups(members: Sequence[Member]) -> dict[str, list[Member]]:
    """Members that carry a verdict, by architecture."""
    groups = by_architecture(Of(m, 0.0) for m in judged(members))
    return {name: [v.member for v in own] for name, own in groups.items()}
