import threading
import time

import pytest
import torch

from bathyscope.stores.prefetch import prefetch


class Numbered:
    """Batch (epoch, step) holds 10 · epoch + step."""

    def __init__(self, fails_at=None):
        self.asked = []
        self.threads = set()
        self._fails_at = fails_at

    def batch(self, seed, epoch, step):
        self.asked.append((seed, epoch, step))
        self.threads.add(threading.get_ident())
        if (epoch, step) == self._fails_at:
            raise OSError("a chunk is damaged")
        return torch.full((2, 1), 10.0 * epoch + step)


STEPS = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_batches_come_in_order_from_one_other_thread(depth):
    batches = Numbered()

    found = [int(rows[0, 0]) for rows in prefetch(batches, 3, STEPS, depth=depth)]

    assert found == [0, 1, 10, 11, 12]
    assert batches.asked == [(3, *step) for step in STEPS]
    assert len(batches.threads) == 1
    assert threading.get_ident() not in batches.threads


def test_without_depth_the_caller_reads_when_it_asks():
    batches = Numbered()
    ahead = prefetch(batches, 3, STEPS, depth=0)

    assert batches.asked == []
    assert int(next(ahead)[0, 0]) == 0
    assert batches.asked == [(3, 0, 0)]
    assert [int(rows[0, 0]) for rows in ahead] == [1, 10, 11, 12]
    assert batches.threads == {threading.get_ident()}


def test_no_steps_are_no_batches():
    assert list(prefetch(Numbered(), 0, [])) == []


def test_an_error_comes_where_its_batch_would_have_come():
    ahead = prefetch(Numbered(fails_at=(1, 0)), 0, STEPS)

    assert [int(next(ahead)[0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="damaged"):
        next(ahead)


def test_depth_bounds_what_is_read_ahead():
    batches = Numbered()
    ahead = prefetch(batches, 0, STEPS, depth=2)

    next(ahead)
    time.sleep(0.05)
    assert len(batches.asked) == 3
    ahead.close()
    time.sleep(0.05)
    assert len(batches.asked) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_are_pinned_and_come_to_the_gpu():
    found = list(prefetch(Numbered(), 0, STEPS, device="cuda"))

    assert all(rows.device.type == "cuda" for rows in found)
    assert [int(rows[0, 0]) for rows in found] == [0, 1, 10, 11, 12]
