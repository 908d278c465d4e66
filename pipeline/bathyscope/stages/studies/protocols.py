"""How large the dictionaries are by which models of different width are compared: two protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from bathyscope.config import Config
from bathyscope.stages.studies.member_runs import Size

EQUAL_RATIO, EQUAL_COUNT = "equal_ratio", "equal_count"
PROTOCOLS = {EQUAL_RATIO: "equal F / d and L0 / d", EQUAL_COUNT: "equal F and L0"}
"""In the order of pages, in words."""
T = TypeVar("T")


def sizes_at_equal_ratio(config: Config, width: int) -> list[Size]:
    """Dictionaries of equal F / d and L0 / d, first protocol; `width` is d."""
    study = config.study
    return [
        Size(expansion * width, max(round(share * width), 2), seed)
        for expansion in study.expansions
        for share in study.k_shares
        for seed in study.seeds
    ]


def sizes_of_equal_count(config: Config) -> list[Size]:
    """Dictionaries of equal F and L0, second protocol."""
    study = config.study
    return [Size(f, k, seed) for f in study.widths for k in study.ks for seed in study.seeds]


def middle_size(config: Config, protocol: str, width: int, seed: int) -> Size:
    """The dictionary of the middle F and the middle L0 of a protocol; `width` is d."""
    study = config.study
    if protocol == EQUAL_COUNT:
        return Size(middle(study.widths), middle(study.ks), seed)
    k = max(round(middle(study.k_shares) * width), 2)
    return Size(middle(study.expansions) * width, k, seed)


def sizes_of(config: Config, width: int) -> list[Size]:
    """Of both protocols, each once."""
    both = sizes_at_equal_ratio(config, width) + sizes_of_equal_count(config)
    return sorted(set(both))


def middle(values: Sequence[T]) -> T:
    """The middle one, the later of two."""
    return values[len(values) // 2]
