"""Near-duplicates are dropped before the split, by the word 13-grams that they share.

13 words is the length by which GPT-3's training text was searched for copies of its benchmarks
(Brown et al. 2020, appendix C). Documents flow in one by one; the first of a group stays.
Text in scripts that put no spaces between words has few words, so there only copies are found.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bathyscope.corpora.gram_table import GramTable
from bathyscope.corpora.stable_hash import stable_hash

GRAM_WORDS = 13
DUPLICATE_SHARE = 0.5

_WORD = re.compile(r"\w+")
# An odd multiplier (Knuth's MMIX) loses no bit of a word's hash modulo 2**64.
_MULTIPLIER = 6364136223846793005
_POWERS = np.array(
    [pow(_MULTIPLIER, GRAM_WORDS - 1 - place, 2**64) for place in range(GRAM_WORDS)],
    dtype=np.uint64,
)

# Text repeats its words: with this many remembered (about 50 MB), few are hashed twice.
_word_hash = lru_cache(maxsize=2**18)(stable_hash)


class Deduplicator:
    """Remembers the 13-grams of the documents that were kept.

    12 to 24 MB of memory per million distinct grams (a gram per word of kept text), half as much
    again while the table doubles. A corpus beyond one host's memory is partitioned by the first
    bits of the gram hash: each partition counts its own grams of a document, the counts are added
    and the decision goes back to all.
    """

    def __init__(self) -> None:
        self.num_documents = 0
        self.num_duplicates = 0
        self._seen = GramTable()

    @property
    def num_bytes(self) -> int:
        """Memory that the remembered grams take."""
        return self._seen.num_bytes

    def is_duplicate(self, text: str) -> bool:
        """Say whether to drop this document, and remember its grams if it is kept.

        Dropped when at least half of its 13-grams (every position counts, repeats too) are in
        documents kept before. Below 13 words the document is dropped when its whole text is.
        Grams of a dropped document are not added: else a document could be dropped for text that
        is nowhere in the corpus, and a chain of gradual changes would lose every link but one.
        """
        grams = gram_hashes(text)
        is_seen = self._seen.contains(grams)
        drop = int(is_seen.sum()) >= DUPLICATE_SHARE * len(grams)
        if not drop:
            self._seen.add(grams[~is_seen])
        self.num_documents += 1
        self.num_duplicates += drop
        return drop


def gram_hashes(text: str) -> NDArray[np.uint64]:
    r"""Hash each run of 13 words (lower-cased \w+): uint64 [words - 12], in order of the text.

    Σ_j word_hash[i + j] · m^(12 - j) modulo 2^64. A text below 13 words gives one hash, of all of
    it (case and punctuation included); so the result is never empty.
    """
    words = _WORD.findall(text.lower())
    if len(words) < GRAM_WORDS:
        return np.array([stable_hash(text)], dtype=np.uint64)
    hashes = np.fromiter(map(_word_hash, words), dtype=np.uint64, count=len(words))
    return np.correlate(hashes, _POWERS, mode="valid")
