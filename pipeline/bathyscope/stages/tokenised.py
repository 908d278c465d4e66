"""Documents become token ids, and in conversations bits that say whose each token is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bathyscope.corpora.documents import Document
from bathyscope.corpora.masks import ROLES
from bathyscope.errors import ModelError

Bits = npt.NDArray[np.uint8]


def tokenised(
    tokenizer: Any, documents: Sequence[Document]
) -> list[tuple[Sequence[int], Bits | None]]:
    """Ids and role bits of each document; no bits where nobody takes turns.

    No special tokens are added; those that a chat template writes are in the text. Raises
    `ModelError` for conversations and a tokenizer that does not say where its tokens lie.
    """
    if all(document.token_ids is not None for document in documents):
        return [(document.token_ids or (), None) for document in documents]
    talk = any(document.turns for document in documents)
    if talk and not tokenizer.is_fast:
        raise ModelError(
            f"Conversations need a tokenizer that says where its tokens lie, and "
            f"{type(tokenizer).__name__} does not. Give the model folder a tokenizer.json."
        )
    texts = [document.text for document in documents]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=talk)
    if not talk:
        return [(ids, None) for ids in encoded.input_ids]
    return [
        (ids, role_bits(document, np.array([start for start, _ in offsets], dtype=np.int64)))
        for document, ids, offsets in zip(
            documents, encoded.input_ids, encoded.offset_mapping, strict=True
        )
    ]


def role_bits(document: Document, starts: npt.NDArray[np.int64]) -> Bits:
    """The role's bit of each token, by the character that it starts at [tokens]."""
    stops = np.array([stop for _, stop in document.turns], dtype=np.int64)
    bits = np.array([int(ROLES[role]) for role, _ in document.turns] + [0], dtype=np.uint8)
    found: Bits = bits[np.searchsorted(stops, starts, side="right")]
    return found
