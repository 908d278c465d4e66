import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope.corpora import gram_table
from bathyscope.corpora.gram_table import GramTable


def hashes(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def test_an_empty_table_holds_nothing() -> None:
    table = GramTable()
    assert table.num_hashes == 0
    assert table.contains(hashes(0, 1, 2**64 - 1)).tolist() == [False, False, False]
    assert table.contains(hashes()).tolist() == []
    table.add(hashes())
    assert table.num_hashes == 0


@pytest.mark.parametrize("max_recent", [1, 10, 10**6])
def test_it_is_a_set_while_it_grows(monkeypatch: pytest.MonkeyPatch, max_recent: int) -> None:
    monkeypatch.setattr(gram_table, "_MAX_RECENT", max_recent)
    generator = np.random.default_rng(0)
    values = generator.integers(2, 2**64, size=20_000, dtype=np.uint64)
    table = GramTable()
    for start in range(0, 20_000, 500):
        block = values[start : start + 500]
        assert not table.contains(block).any()
        table.add(block)
        table.add(block[::-1])
    assert table.num_hashes == 20_000
    assert table.contains(values).all()
    assert not table.contains(values + np.uint64(1)).any()
    # Two thirds full before it doubles: between 12 and 24 bytes each.
    assert 12 <= table.num_bytes / 20_000 <= 24


def test_hashes_that_all_want_one_bucket_find_their_places() -> None:
    # Multiples of the inverse of the spread have small products: all in bucket 0 of 512.
    inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)
    crowd = hashes(*(inverse * place % 2**64 for place in range(1, 101)))
    table = GramTable()
    table.add(crowd[:99])
    assert table.num_hashes == 99
    assert table.contains(crowd).tolist() == [True] * 99 + [False]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(2, 60), max_size=30), max_size=8))
def test_it_agrees_with_a_python_set(batches: list[list[int]]) -> None:
    table, wanted = GramTable(), set[int]()
    for batch in batches:
        assert table.contains(hashes(*batch)).tolist() == [each in wanted for each in batch]
        table.add(hashes(*batch))
        wanted |= set(batch)
        assert table.num_hashes == len(wanted)


def test_zero_can_be_held() -> None:
    table = GramTable()
    table.add(hashes(0))
    assert table.num_hashes == 1
    assert table.contains(hashes(0)).tolist() == [True]
