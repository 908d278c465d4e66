"""Short pieces of held-out text that patching and graphs read, the same for all members."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.values import HELD_OUT


class Windows(NamedTuple):
    """Beginnings of held-out sequences, spread evenly over the split."""

    tokens: NDArray[np.int64]
    """[windows, length + 1]: what the model reads, and the token that comes next."""
    documents: NDArray[np.int64]
    """Of the last token that is read [windows]."""


def windows_of(opened: OpenedMember, count: int, length: int) -> Windows:
    """At most `count` windows of `length` tokens, which with the next one fit into a sequence."""
    corpus = opened.corpus
    there = corpus.split_range(HELD_OUT)
    items = np.unique(np.linspace(there.start, there.stop - 1, count).round().astype(np.int64))
    tokens = np.stack([corpus.tokens(i, i + 1)[0, : length + 1].numpy() for i in items.tolist()])
    owners = [int(corpus.documents(i, i + 1)[0, length - 1]) for i in items.tolist()]
    return Windows(tokens, np.array(owners, dtype=np.int64))
