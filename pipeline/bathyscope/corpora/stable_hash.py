"""One hash that gives the same number on every machine, in every process, for ever.

Python's `hash()` of a string changes with each process. The order of documents, their split and
the 13-grams of the deduplicator must not.
"""

from __future__ import annotations

from hashlib import blake2b


def stable_hash(text: str) -> int:
    """Hash text to 64 bits: the first 8 bytes of its BLAKE2b, little-endian, as 0 … 2**64 - 1."""
    # surrogatepass: a lone surrogate is no valid UTF-8, and hashing must not be what fails on it.
    return int.from_bytes(
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )
