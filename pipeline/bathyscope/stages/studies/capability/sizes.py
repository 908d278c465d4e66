"""Which dictionaries of a member are read, and by which protocol a row was made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bathyscope.config import Config
from bathyscope.stages.studies.member_runs import Size
from bathyscope.stages.studies.protocols import (
    EQUAL_COUNT,
    EQUAL_RATIO,
    sizes_at_equal_ratio,
    sizes_of_equal_count,
)
from bathyscope.values import Json


def by_protocol(config: Config, width: int) -> dict[str, list[Size]]:
    """Dictionaries of the middle width of each protocol, with every L0."""
    given = {
        EQUAL_RATIO: sizes_at_equal_ratio(config, width),
        EQUAL_COUNT: sizes_of_equal_count(config),
    }
    return {name: _middle(sorted(set(sizes)), "num_latents") for name, sizes in given.items()}


def spliced_sizes(config: Config, width: int) -> list[Size]:
    """Those that are put in the model's place, each once."""
    return _once(by_protocol(config, width).values())


def probed_sizes(config: Config, width: int) -> list[Size]:
    """Those whose latents are probed: also of the middle L0."""
    return _once(_middle(sizes, "k") for sizes in by_protocol(config, width).values())


def protocols_of(config: Config, width: int, row: Json) -> list[str]:
    """The protocols that a row is of; what depends on no dictionary is of both."""
    if "representation" not in row:
        return []
    given = by_protocol(config, width)
    if not row.get("k"):
        return list(given)
    # PCA and coordinates have an L0, and no latents.
    return [
        name
        for name, sizes in given.items()
        if any(s.k == row["k"] and row["num_latents"] in (0, s.num_latents) for s in sizes)
    ]


def _middle(sizes: Sequence[Size], field: str) -> list[Size]:
    values = sorted({getattr(size, field) for size in sizes})
    return [size for size in sizes if getattr(size, field) == values[len(values) // 2]]


def _once(parts: Iterable[Sequence[Size]]) -> list[Size]:
    return sorted({size for part in parts for size in part})
