"""How many shards wait to be written."""

from __future__ import annotations

import threading

import pytest
import torch

from bathyscope.stores.writers import Writers


def test_shards_wait_until_they_are_written_or_have_failed() -> None:
    begin = threading.Event()
    with Writers(1) as writers:
        assert writers.waiting == 0
        futures = [writers.submit(begin.wait, 10) for _ in range(3)]
        broken = writers.submit(int, "no number")
        assert writers.waiting == 4
        begin.set()
        assert [future.result() for future in futures] == [True] * 3
        with pytest.raises(ValueError, match="no number"):
            broken.result()
    assert writers.waiting == 0


def test_a_shard_that_is_taken_back_does_not_wait() -> None:
    begin = threading.Event()
    with Writers(1) as writers:
        writers.submit(begin.wait, 10)
        assert writers.submit(int).cancel()
        assert writers.waiting == 1
        begin.set()
    assert writers.waiting == 0


def test_nothing_is_taken_after_the_end() -> None:
    writers = Writers(1)
    writers.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        writers.submit(int)
    assert writers.waiting == 0


def test_each_thread_computes_with_one_thread_of_its_own() -> None:
    with Writers(2) as writers:
        assert writers.submit(torch.get_num_threads).result() == 1
