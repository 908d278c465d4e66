"""How large the dictionaries are that are compared: the same for all, or in proportion to d."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from bathyscope.config import Config
from bathyscope.stages.studies.member_runs import Size

EQUAL_COUNT, EQUAL_RATIO = "equal_count", "equal_ratio"
PROTOCOLS = {
    EQUAL_COUNT: "equal F and L0",
    EQUAL_RATIO: "equal F / d and L0 / d",
}
T = TypeVar("T")


def size_of(config: Config, protocol: str, width: int, seed: int) -> Size:
    """The middle dictionary of a protocol for a model of width d."""
    study = config.study
    if protocol == EQUAL_COUNT:
        return Size(middle(study.widths), middle(study.ks), seed)
    k = max(round(middle(study.k_shares) * width), 2)
    return Size(middle(study.expansions) * width, k, seed)


def sizes_needed(config: Config, width: int, *, trained: bool) -> list[Size]:
    """The dictionaries that a member is a source with, and the second seed's to start itself from.

    A model without training is a source only, and at equal F.
    """
    first, *others = config.study.seeds
    found = [size_of(config, EQUAL_COUNT, width, first)]
    if trained:
        found += [size_of(config, EQUAL_COUNT, width, seed) for seed in others[:1]]
        found.append(size_of(config, EQUAL_RATIO, width, first))
    return sorted(set(found))


def map_tokens(config: Config) -> list[int]:
    """Rows on which maps are fitted, rising."""
    return sorted(config.study.map_tokens)


def middle(values: Sequence[T]) -> T:
    """The middle one, the later of two."""
    return values[len(values) // 2]
