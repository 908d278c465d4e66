import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope.errors import ConfigError
from bathyscope.stores.order import EpochOrder, choose_streams

CASES = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def orders(draw):
    """Orders over chunks of uneven sizes, some of them empty."""
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=24))
    streams = draw(st.sampled_from([1, 2, 4]))
    return EpochOrder(
        np.array(sizes, dtype=np.int64),
        seed=draw(st.integers(0, 5)),
        epoch=draw(st.integers(0, 3)),
        batch_rows=streams * draw(st.integers(1, 7)),
        num_streams=streams,
        window_chunks=draw(st.integers(1, 5)),
    )


def rows_of(order, shares):
    """Rows (chunk, row in chunk) that shares name, in order."""
    rows = []
    for share in shares:
        inside = [(int(c), r) for c in share.window.chunks for r in range(order.sizes[c])]
        permuted = order.permutation(share.window)[share.start : share.stop]
        rows += [inside[i] for i in permuted]
    return rows


def all_rows(order):
    return [row for step in range(order.num_steps) for row in rows_of(order, order.shares(step))]


def even(num_chunks=64, **changes):
    fields = {"seed": 0, "epoch": 0, "batch_rows": 8, "num_streams": 4, "window_chunks": 4}
    return EpochOrder(np.full(num_chunks, 3, dtype=np.int64), **{**fields, **changes})


@CASES
@given(orders())
def test_every_row_is_used_at_most_once(order):
    rows = all_rows(order)

    assert len(rows) == len(set(rows)) == order.num_steps * order.batch_rows
    assert all(0 <= r < order.sizes[c] for c, r in rows)


@CASES
@given(orders())
def test_every_stream_gives_the_same_to_every_step_and_streams_are_in_order(order):
    share = order.batch_rows // order.num_streams
    for step in range(order.num_steps):
        streams = [s.window.stream for s in order.shares(step) for _ in range(s.stop - s.start)]
        assert streams == [s for s in range(order.num_streams) for _ in range(share)]


@CASES
@given(orders())
def test_a_stream_is_read_from_its_start_without_gaps(order):
    reached = dict.fromkeys(range(order.num_streams), (0, 0))
    window_rows = {}
    for step in range(order.num_steps):
        for share in order.shares(step):
            window = share.window
            index, row = reached[window.stream]
            while index < window.index:
                assert row == window_rows.get((window.stream, index), 0)
                index, row = index + 1, 0
            assert (index, row) == (window.index, share.start)
            window_rows[window.stream, index] = int(order.sizes[window.chunks].sum())
            reached[window.stream] = (index, share.stop)


@CASES
@given(orders())
def test_windows_deal_out_every_chunk_once(order):
    dealt = {
        (s.window.stream, s.window.index): s.window.chunks
        for t in range(order.num_steps)
        for s in order.shares(t)
    }
    chunks = [int(c) for window in dealt.values() for c in window]

    assert len(chunks) == len(set(chunks))
    assert all(len(window) <= order.window_chunks for window in dealt.values())


@CASES
@given(orders(), st.randoms(use_true_random=False))
def test_a_step_is_a_pure_function_of_seed_epoch_and_step(order, random):
    wanted = [rows_of(order, order.shares(step)) for step in range(order.num_steps)]
    steps = list(range(order.num_steps))
    random.shuffle(steps)

    for step in steps:
        fresh = EpochOrder(
            order.sizes.copy(),
            order.seed,
            order.epoch,
            order.batch_rows,
            order.num_streams,
            order.window_chunks,
        )
        assert rows_of(fresh, fresh.shares(step)) == wanted[step]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_that_own_whole_streams_make_the_same_step(world):
    order = even()
    for step in range(order.num_steps):
        shares = order.shares(step)
        by_rank = {
            rank: iter([s for s in shares if s.window.stream % world == rank])
            for rank in range(world)
        }
        joined = [next(by_rank[s.window.stream % world]) for s in shares]

        assert rows_of(order, joined) == rows_of(order, shares)
        counts = [
            sum(s.stop - s.start for s in shares if s.window.stream % world == rank)
            for rank in range(world)
        ]
        assert counts == [order.batch_rows // world] * world


def test_an_even_store_is_used_whole():
    order = even()

    assert order.num_steps == 64 * 3 // 8
    assert sorted(all_rows(order)) == [(c, r) for c in range(64) for r in range(3)]


def test_steps_by_hand():
    # One stream, one window: 5 rows in steps of 2, and the fifth row is left out.
    order = EpochOrder(np.array([2, 3]), 0, 0, batch_rows=2, num_streams=1, window_chunks=8)

    assert order.num_steps == 2
    assert [(s.start, s.stop) for step in range(2) for s in order.shares(step)] == [(0, 2), (2, 4)]


def test_a_share_may_cross_windows_also_empty_ones():
    order = EpochOrder(np.full(6, 1), 0, 0, batch_rows=4, num_streams=1, window_chunks=3)
    assert [(s.window.index, s.start, s.stop) for s in order.shares(0)] == [(0, 0, 3), (1, 0, 1)]

    order = EpochOrder(np.array([1, 0, 1]), 0, 0, batch_rows=2, num_streams=1, window_chunks=1)
    assert [(s.start, s.stop) for s in order.shares(0)] == [(0, 1), (0, 1)]
    assert all(order.sizes[s.window.chunks].sum() == 1 for s in order.shares(0))


def test_the_shortest_stream_ends_the_epoch():
    # Whatever the deal, one stream has the chunk of 7 rows and the other that of 3.
    order = EpochOrder(np.array([7, 3]), 0, 0, batch_rows=4, num_streams=2, window_chunks=1)

    assert order.num_steps == 1


@pytest.mark.parametrize("sizes", [[], [0], [0, 0, 0], [1]])
def test_too_few_rows_have_no_steps(sizes):
    order = EpochOrder(np.array(sizes, dtype=np.int64), 0, 0, 2, num_streams=1, window_chunks=2)

    assert order.num_steps == 0
    with pytest.raises(IndexError, match="step 0 of an epoch of 0 steps"):
        order.shares(0)


def test_steps_outside_the_epoch_are_refused():
    for step in (-1, 24):
        with pytest.raises(IndexError, match=f"step {step} of an epoch of 24 steps"):
            even().shares(step)


def test_epochs_and_seeds_differ_and_the_same_ones_agree():
    first = all_rows(even())

    assert all_rows(even(epoch=1)) != first
    assert all_rows(even(seed=1)) != first
    assert all_rows(even()) == first
    assert sorted(all_rows(even(epoch=1))) == sorted(first)


def test_neighbouring_rows_are_spread():
    # Were rows left in place, nearly all neighbours in the order would share their chunk.
    order = even(1024, batch_rows=64, num_streams=1, window_chunks=64)
    chunks = [c for c, _ in all_rows(order)]

    assert np.mean([a == b for a, b in itertools.pairwise(chunks)]) < 0.05


def test_the_order_is_pinned():
    # A change here changes the rows of every stored run: raise SEMANTICS of the train stage.
    order = EpochOrder(np.full(8, 2), 7, 1, batch_rows=4, num_streams=2, window_chunks=2)

    assert rows_of(order, order.shares(0)) == [(1, 1), (6, 1), (3, 0), (3, 1)]
    assert rows_of(order, order.shares(3)) == [(7, 1), (7, 0), (5, 1), (5, 0)]


def test_first_windows_differ_so_that_streams_turn_over_at_different_steps():
    order = even(256, num_streams=4, batch_rows=8, window_chunks=8)

    turns = [
        sum(s.window.index > 0 and s.start == 0 for s in order.shares(t))
        for t in range(order.num_steps)
    ]

    assert [len(order.shares(0)[s].window.chunks) for s in range(4)] == [8, 6, 4, 2]
    assert max(turns) == 1


def test_a_stream_shorter_than_its_first_window_is_one_window():
    order = EpochOrder(np.array([3, 3]), 0, 0, batch_rows=2, num_streams=2, window_chunks=8)

    assert [[len(s.window.chunks) for s in order.shares(t)] for t in range(3)] == [[1, 1]] * 3


def test_a_batch_that_does_not_divide_is_refused_with_both_settings():
    with pytest.raises(
        ConfigError, match=r"10 rows does not divide over 4 streams.*train\.batch_rows"
    ):
        even(batch_rows=10)


@pytest.mark.parametrize(
    ("num_chunks", "wanted", "batch_rows", "streams"),
    [
        (2048, 128, 4096, 128),  # 16 chunks each
        (2047, 128, 4096, 64),
        (100, 128, 4096, 4),  # 128, 64, 32, 16 and 8 leave less than 16 chunks each
        (31, 128, 4096, 1),
        (32, 128, 4096, 2),
        (0, 128, 4096, 1),
        (10**9, 128, 96, 32),  # 128 and 64 do not divide 96
        (10**9, 100, 75, 25),  # 100, 50, 25
        (10**9, 128, 7, 1),
        (10**9, 1, 7, 1),
        (10**9, 0, 7, 1),
    ],
)
def test_streams_are_halved_until_they_fit(num_chunks, wanted, batch_rows, streams):
    assert choose_streams(num_chunks, wanted=wanted, batch_rows=batch_rows) == streams


def test_fewer_chunks_per_stream_may_be_asked_for():
    assert choose_streams(8, wanted=4, batch_rows=8, min_chunks=2) == 4
    assert choose_streams(8, wanted=4, batch_rows=8, min_chunks=3) == 2
