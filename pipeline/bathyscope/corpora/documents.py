"""A document: the unit that is deduplicated, split and packed.

Text flows in from the sources (documentation, JSONL files, Hugging Face datasets).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Document:
    """Text with a name. The order of a corpus follows `id`, the split follows `digest`."""

    id: str
    """Unique in its corpus and free of machine paths, e.g. "numpy:numpy/lib/x.py:Name.method"."""
    text: str
    token_ids: tuple[int, ...] | None = None
    """Where the source holds ids already; the text is then those ids, as words."""
    turns: tuple[tuple[str, int], ...] = ()
    """In a conversation: role, and one past the last character that is its."""

    @property
    def digest(self) -> str:
        """32 hexadecimal digits: BLAKE2b-128 of the text in UTF-8; `id` does not enter."""
        encoded = self.text.encode("utf-8", "surrogatepass")
        return blake2b(encoded, digest_size=16).hexdigest()


def well_formed(text: str) -> str:
    r"""Return the text with each lone surrogate replaced by U+FFFD, surrogate pairs joined.

    JSON and Python literals can hold "\ud800", which no UTF-8 encoder and no tokenizer accepts.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
