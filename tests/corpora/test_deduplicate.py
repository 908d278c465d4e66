import subprocess
import sys

import pytest

from bathyscope.corpora.deduplicate import Deduplicator, gram_hashes
from bathyscope.corpora.stable_hash import stable_hash


def words(first: int, last: int) -> str:
    return " ".join(f"w{number}" for number in range(first, last))


def test_grams_are_the_polynomial_of_their_words() -> None:
    values = [stable_hash(f"w{number}") for number in range(14)]
    multiplier = 6364136223846793005
    wanted = []
    for start in (0, 1):
        total = 0
        for value in values[start : start + 13]:
            total = (total * multiplier + value) % 2**64
        wanted.append(total)
    assert gram_hashes(words(0, 14)).tolist() == wanted


def test_case_and_punctuation_do_not_count_but_order_does() -> None:
    plain = gram_hashes(words(0, 15)).tolist()
    assert gram_hashes(words(0, 15).replace(" ", ",\n").upper()).tolist() == plain
    backwards = " ".join(reversed(words(0, 15).split()))
    assert not set(gram_hashes(backwards).tolist()) & set(plain)


def test_half_of_the_grams_is_enough_and_less_is_not() -> None:
    # 40 words: 28 grams. A text that shares its first k + 12 words has k of its 28 grams there.
    for shared, is_dropped in [(13, False), (14, True), (15, True)]:
        deduplicator = Deduplicator()
        assert not deduplicator.is_duplicate(words(0, 40))
        start = 28 - shared
        other = words(start, 40) + " " + words(100, 100 + start)
        assert len(gram_hashes(other)) == 28
        assert deduplicator.is_duplicate(other) is is_dropped
        assert (deduplicator.num_documents, deduplicator.num_duplicates) == (2, int(is_dropped))


def test_grams_of_a_dropped_document_are_not_remembered() -> None:
    deduplicator = Deduplicator()
    assert not deduplicator.is_duplicate(words(0, 40))
    # Half old, half new: dropped, so its new half is nowhere in the corpus and can come later.
    assert deduplicator.is_duplicate(words(14, 40) + " " + words(100, 114))
    assert not deduplicator.is_duplicate(words(100, 114))
    assert deduplicator.is_duplicate(words(100, 114))


def test_a_text_that_repeats_itself_is_no_duplicate_of_itself() -> None:
    assert not Deduplicator().is_duplicate("again " * 500)


@pytest.mark.parametrize("num_words", [0, 1, 12])
def test_short_texts_are_compared_as_a_whole(num_words: int) -> None:
    deduplicator = Deduplicator()
    text = words(0, num_words) + " !"
    assert not deduplicator.is_duplicate(text)
    assert not deduplicator.is_duplicate(text + "?")
    assert deduplicator.is_duplicate(text)


def test_thirteen_words_are_one_gram() -> None:
    deduplicator = Deduplicator()
    assert not deduplicator.is_duplicate(words(0, 13))
    assert deduplicator.is_duplicate(words(0, 13) + "?")
    # 14 words, one gram of two is known: half.
    assert deduplicator.is_duplicate(words(0, 14))
    # 15 words, one gram of three.
    assert not deduplicator.is_duplicate(words(0, 15))


def test_a_short_text_is_no_part_of_a_long_one() -> None:
    deduplicator = Deduplicator()
    assert not deduplicator.is_duplicate(words(0, 40))
    assert not deduplicator.is_duplicate(words(0, 12))


def test_hashes_do_not_depend_on_the_process() -> None:
    code = (
        "from bathyscope.corpora.deduplicate import gram_hashes; import sys;"
        "sys.stdout.write(str(gram_hashes('Ünïcode ' * 13).tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode() == str(gram_hashes("Ünïcode " * 13).tolist())
