"""What a study of the second model needs of a member: dictionaries, and rows for maps."""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.stages.studies.member_runs import Size
from bathyscope.stages.studies.protocols import EQUAL_COUNT, EQUAL_RATIO, middle_size


def sizes_needed(config: Config, width: int, *, trained: bool) -> list[Size]:
    """The dictionaries that a member is a source with, and the second seed's to start itself from.

    A model without training is a source only, and at equal F.
    """
    first, *others = config.study.seeds
    found = [middle_size(config, EQUAL_COUNT, width, first)]
    if trained:
        found += [middle_size(config, EQUAL_COUNT, width, seed) for seed in others[:1]]
        found.append(middle_size(config, EQUAL_RATIO, width, first))
    return sorted(set(found))


def map_tokens(config: Config) -> list[int]:
    """Rows on which maps are fitted, rising."""
    return sorted(config.study.map_tokens)
