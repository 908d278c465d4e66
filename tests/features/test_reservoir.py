import numpy as np
import pytest

from bathyscope.features import reservoir
from bathyscope.features.firings import Firings
from bathyscope.features.reservoir import RowReservoir


def made(*, capacity=2, rows_per_group=1):
    # The key is the row counted in tens, so that equal keys occur.
    return RowReservoir(3, capacity, rows_per_group=rows_per_group, key=lambda f: f.rows // 10)


def firings(latents, rows):
    values = np.array(rows, dtype=np.float32) / 8
    return Firings(np.array(latents, dtype=np.int64), np.array(rows, dtype=np.int64), values)


def test_the_smallest_keys_stay_in_order():
    kept = made()
    kept.insert(firings([0, 0, 2, 0], [35, 12, 7, 29]))

    assert kept.rows.tolist() == [[12, 29], [-1, -1], [7, -1]]
    assert kept.values.tolist() == [[12 / 8, 29 / 8], [0, 0], [7 / 8, 0]]


def test_equal_keys_go_by_row_even_after_the_places_are_full():
    kept = made()
    kept.insert(firings([1, 1], [18, 19]))
    kept.insert(firings([1, 1], [11, 27]))

    assert kept.rows[1].tolist() == [11, 18]


def test_a_group_gives_its_best_row_only():
    kept = made(capacity=3, rows_per_group=100)
    kept.insert(firings([0, 0, 0, 0], [150, 120, 30, 220]))
    kept.insert(firings([0, 0], [110, 40]))

    assert kept.rows[0].tolist() == [30, 110, 220]


def test_held_leaves_empty_places_out():
    kept = made()
    kept.insert(firings([0, 2, 2], [5, 6, 70]))

    held = kept.held(np.array([1, 2]))

    assert held.latents.tolist() == [2, 2]
    assert held.rows.tolist() == [6, 70]


def test_a_restored_reservoir_goes_on_as_before(monkeypatch):
    kept, copy = made(), made()
    kept.insert(firings([0, 0, 1], [25, 35, 45]))
    copy.restore(kept.rows.copy(), kept.values.copy())
    later = firings([0, 0, 1, 1], [31, 39, 60, 50])
    kept.insert(later)
    copy.insert(later)

    assert kept.rows.tolist() == copy.rows.tolist() == [[25, 31], [45, 50], [-1, -1]]
    with pytest.raises(ValueError, match="wanted both as"):
        copy.restore(kept.rows[:2], kept.values[:2])


def test_small_chunks_give_the_same_places(monkeypatch):
    rng = np.random.default_rng(0)
    stream = firings(rng.integers(0, 3, size=101), rng.permutation(101))
    whole, cut = made(capacity=5, rows_per_group=4), made(capacity=5, rows_per_group=4)
    whole.insert(stream)
    monkeypatch.setattr(reservoir, "_CHUNK_FIRINGS", 7)
    cut.insert(stream)

    assert np.array_equal(whole.rows, cut.rows)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="places per latent 0"):
        made(capacity=0)
    with pytest.raises(ValueError, match="per group 0"):
        made(rows_per_group=0)
