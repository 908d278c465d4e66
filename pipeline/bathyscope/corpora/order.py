"""The order of a corpus: shuffled, the same on every machine, from names and a seed alone.

Each document has its own place on a line, so adding documents keeps the relative order of those
that were there. That is also why no random generator is involved.
"""

from __future__ import annotations

from collections.abc import Iterable

from bathyscope.corpora.documents import Document
from bathyscope.corpora.stable_hash import stable_hash


def shuffled(documents: Iterable[Document], seed: int) -> list[Document]:
    """Return the documents ordered by stable_hash("order:seed:id"), ties by id.

    The whole list is held in memory; the order in which the documents come does not matter.
    """
    return sorted(documents, key=lambda each: order_key(each.id, seed))


def order_key(name: str, seed: int) -> tuple[int, str]:
    """The place of a name in a seeded order: sort by it."""
    return stable_hash(f"order:{seed}:{name}"), name
