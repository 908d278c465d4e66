"""Train or held out: decided for each document alone, from its text and the seed.

Since no other document enters, growing a corpus never moves a document to the other side, and
two copies of a text are always on the same side. Near-duplicates are not: deduplicate first.
"""

from __future__ import annotations

from enum import IntEnum

from bathyscope.corpora.stable_hash import stable_hash
from bathyscope.errors import ConfigError


class Split(IntEnum):
    """Which side of a corpus a document is on; stored as uint8."""

    TRAIN = 0
    HELD_OUT = 1


def split_of(digest: str, *, held_out_share: float, seed: int) -> Split:
    """Return the side of the document with this digest.

    HELD_OUT when stable_hash("split:seed:digest") / 2**64 < held_out_share. So a larger share
    only moves documents from train to held out, a share of 0 holds none out, and 1 all.

    Raises `ConfigError` when the share is not in [0, 1].
    """
    if not 0.0 <= held_out_share <= 1.0:
        raise ConfigError(
            f"The share of held-out documents is {held_out_share}; it must be from 0 to 1, and 0.1 "
            "is usual. Set held_out_share accordingly."
        )
    held_out = stable_hash(f"split:{seed}:{digest}") < int(held_out_share * 2**64)
    return Split.HELD_OUT if held_out else Split.TRAIN
