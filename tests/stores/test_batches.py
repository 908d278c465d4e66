import numpy as np
import pytest
import torch

from bathyscope.errors import ConfigError, StoreError
from bathyscope.stores.batches import ShuffledBatches, list_chunks
from bathyscope.stores.manifests import Segment
from bathyscope.stores.order import EpochOrder
from bathyscope.stores.rows import SegmentReader
from bathyscope.stores.shards import ArraySpec
from bathyscope.values import UnitPlan

ROWS_PER_ITEM = 8


@pytest.fixture
def reader(disk, write_segment):
    """37 training items and 3 held-out items of 8 rows, chunks of 4; row r holds r and -r."""
    spec = ArraySpec("resid", (2,), "float32", "float32", chunk_rows=4, shard_rows=16)
    plan = UnitPlan((("train", 0, 37), ("held_out", 37, 40)), 6)
    segment = Segment("seg", plan, ROWS_PER_ITEM, (spec,), rows_per_unit=48)
    numbers = np.arange(40 * ROWS_PER_ITEM, dtype=np.float32)
    write_segment(disk, segment, {"resid": np.stack([numbers, -numbers], axis=1)})
    return SegmentReader(disk, segment)


def keep_where(reader, keep):
    """Row filters by unit from a function of row numbers."""
    return {
        u.index: keep(np.arange(u.start * ROWS_PER_ITEM, u.stop * ROWS_PER_ITEM))
        for u in reader.units
    }


def chunks_of(reader, *, split="train", keep=lambda rows: np.ones(len(rows), dtype=bool)):
    return list_chunks(reader, "resid", split=split, keep=keep_where(reader, keep))


def batches_of(chunks, **changes):
    fields = {"batch_rows": 12, "streams": 4, "window_chunks": 3}
    return ShuffledBatches(chunks, name="resid", **{**fields, **changes})


def numbers_of(batch):
    assert torch.equal(batch[:, 1], -batch[:, 0])
    return batch[:, 0].long().tolist()


def naive_epoch(batches, chunk_rows, seed, epoch):
    """The steps of an epoch, with every stream written out whole first."""
    sizes = np.array([len(rows) for rows in chunk_rows])
    order = EpochOrder(
        sizes, seed, epoch, batches.batch_rows, batches.num_streams, batches.window_chunks
    )
    dealt = np.random.default_rng([seed, epoch, 0]).permutation(len(sizes))
    streams = []
    for stream in range(batches.num_streams):
        mine = dealt[stream :: batches.num_streams]
        written = []
        for index, first in enumerate(range(0, len(mine), batches.window_chunks)):
            window = [r for c in mine[first : first + batches.window_chunks] for r in chunk_rows[c]]
            rng = np.random.default_rng([seed, epoch, 1, stream, index])
            written += [window[i] for i in rng.permutation(len(window))]
        streams.append(written)
    share = batches.batch_rows // batches.num_streams
    assert order.num_steps == min(len(s) for s in streams) // share
    return [
        [row for s in streams for row in s[step * share : (step + 1) * share]]
        for step in range(order.num_steps)
    ]


def test_chunks_are_those_of_the_split_and_end_with_the_valid_rows(reader):
    train = chunks_of(reader)
    held_out = chunks_of(reader, split="held_out")

    # Six units of 12 chunks, and one of a single item: two chunks of its 8 rows.
    assert len(train) == 6 * 12 + 2
    assert [(c.unit.index, c.start, c.stop) for c in train[-3:]] == [
        (5, 44, 48),
        (6, 0, 4),
        (6, 4, 8),
    ]
    assert [(c.unit.index, c.start) for c in held_out] == [(7, s) for s in range(0, 24, 4)]


def test_an_odd_last_chunk_is_short(disk, write_segment):
    spec = ArraySpec("resid", (2,), "float32", "float32", chunk_rows=4, shard_rows=8)
    segment = Segment("seg", UnitPlan((("train", 0, 7),), 7), 1, (spec,), rows_per_unit=8)
    write_segment(disk, segment, {"resid": np.ones((7, 2), dtype=np.float32)})
    reader = SegmentReader(disk, segment)

    chunks = list_chunks(reader, "resid", split="train", keep={0: np.ones(7, dtype=bool)})

    assert [(c.start, c.stop, len(c.keep)) for c in chunks] == [(0, 4, 4), (4, 7, 3)]


@pytest.mark.parametrize("streams", [1, 2, 4])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (3, 1)])
def test_every_batch_is_that_of_a_naive_reading(reader, streams, seed, epoch):
    batches = batches_of(chunks_of(reader), streams=streams)
    chunk_rows = [list(range(4 * c, 4 * c + 4)) for c in range(74)]
    wanted = naive_epoch(batches, chunk_rows, seed, epoch)

    assert batches.num_streams == streams
    assert batches.num_steps(seed, epoch) == len(wanted) > 20
    for step, rows in enumerate(wanted):
        batch = batches.batch(seed, epoch, step)
        assert batch.shape == (12, 2)
        assert numbers_of(batch) == rows


def test_a_filter_takes_rows_away(reader):
    def odd_and_not_the_first_chunks(rows):
        return (rows % 2 == 1) & (rows >= 20)

    batches = batches_of(chunks_of(reader, keep=odd_and_not_the_first_chunks), streams=2)
    chunk_rows = [[r for r in range(4 * c, 4 * c + 4) if r % 2 and r >= 20] for c in range(74)]
    wanted = naive_epoch(batches, chunk_rows, 0, 0)

    assert batches.num_rows == (296 - 20) // 2
    assert [numbers_of(batches.batch(0, 0, s)) for s in range(len(wanted))] == wanted
    assert all(r % 2 == 1 and r >= 20 for rows in wanted for r in rows)


def test_steps_may_be_asked_for_in_any_order_and_from_a_fresh_reader(reader):
    first = batches_of(chunks_of(reader))
    steps = first.num_steps(0, 0)
    wanted = [first.batch(0, 0, s) for s in range(steps)]
    other = batches_of(chunks_of(reader))

    for step in np.random.default_rng(0).permutation(steps):
        assert torch.equal(other.batch(0, 0, int(step)), wanted[step])
    assert torch.equal(batches_of(chunks_of(reader)).batch(0, 0, steps - 1), wanted[-1])


def test_epochs_interleave_without_confusion(reader):
    batches = batches_of(chunks_of(reader))
    wanted = {e: batches_of(chunks_of(reader)).batch(0, e, 2) for e in range(4)}

    for epoch in (0, 3, 1, 2, 0, 1):
        assert torch.equal(batches.batch(0, epoch, 2), wanted[epoch])
    assert not torch.equal(wanted[0], wanted[1])


def test_chunks_of_several_segments_are_one_store(reader, tmp_path, write_segment):
    from bathyscope.stores.objects import Objects

    second = Objects(str(tmp_path / "second"))
    numbers = np.arange(1000, 1000 + 320, dtype=np.float32)
    write_segment(second, reader.segment, {"resid": np.stack([numbers, -numbers], axis=1)})
    other = SegmentReader(second, reader.segment)

    batches = batches_of([*chunks_of(reader), *chunks_of(other)])
    rows = [r for s in range(batches.num_steps(0, 0)) for r in numbers_of(batches.batch(0, 0, s))]

    assert batches.num_rows == 2 * 296
    assert len(rows) == len(set(rows))
    assert min(rows) < 296 <= 1000 <= max(rows)


def test_memory_holds_the_windows_of_one_step(reader, monkeypatch):
    batches = batches_of(chunks_of(reader))
    reads = []
    real = SegmentReader.read_tensor

    def counted(self, name, unit, **range_):
        reads.append((unit.index, range_["start"]))
        return real(self, name, unit, **range_)

    monkeypatch.setattr(SegmentReader, "read_tensor", counted)
    held = []
    for step in range(batches.num_steps(0, 0)):
        batches.batch(0, 0, step)
        held.append(sum(len(w.rows) for w in batches._windows.values()))

    # 4 streams of windows of 3 chunks of 4 rows; twice that where all of them change windows.
    assert max(held) <= 2 * 4 * 3 * 4
    assert held[0] == held[1] == 4 * 3 * 4
    assert len(reads) == len(set(reads)), "no chunk is read twice"


def test_too_few_rows_are_refused_with_both_counts(reader):
    chunks = chunks_of(reader)

    with pytest.raises(StoreError, match=r"296 training rows of resid; a batch needs 297"):
        batches_of(chunks, batch_rows=297)
    assert batches_of(chunks, batch_rows=296).num_steps(0, 0) == 1
    with pytest.raises(StoreError, match="0 training rows"):
        batches_of([])


def test_a_filter_that_empties_a_stream_still_leaves_a_step(reader):
    # All rows lie in 8 of 74 chunks: dealt to 4 streams, one of them may get none.
    batches = batches_of(chunks_of(reader, keep=lambda rows: rows < 32), batch_rows=32)

    assert batches.num_rows == 32
    for seed in range(20):
        assert batches.num_steps(seed, 0) == 1
    assert sorted(numbers_of(batches.batch(0, 0, 0))) == list(range(32))


def test_streams_become_fewer_where_chunks_are_few(reader):
    assert batches_of(chunks_of(reader), streams=128, batch_rows=12).num_streams == 4
    assert batches_of(chunks_of(reader, split="held_out")).num_streams == 1


@pytest.mark.parametrize("world", [2, 4])
def test_the_parts_of_all_ranks_are_the_batch_of_one(reader, world):
    chunks = chunks_of(reader)
    options = {"name": "resid", "batch_rows": 16, "streams": 4, "window_chunks": 3}
    alone = ShuffledBatches(chunks, **options)
    ranks = [ShuffledBatches(chunks, **options, rank=r, world=world) for r in range(world)]

    for step in range(alone.num_steps(5, 1)):
        parts = [rank.batch(5, 1, step) for rank in ranks]
        assert [len(p) for p in parts] == [16 // world] * world
        assert torch.equal(torch.cat(parts), alone.batch(5, 1, step))


def test_streams_that_do_not_divide_over_the_ranks_are_refused_at_once(reader):
    chunks = chunks_of(reader)

    with pytest.raises(ConfigError, match="4 streams do not divide over 3 ranks"):
        batches_of(chunks, batch_rows=16, streams=4, world=3)


def test_step_ten_thousand_is_reached_without_the_ones_before(disk, write_segment):
    count = 10_050 * 4
    spec = ArraySpec("resid", (1,), "float32", "float32", chunk_rows=64, shard_rows=64 * 632)
    segment = Segment("seg", UnitPlan((("train", 0, count),), count), 1, (spec,), 64 * 632)
    write_segment(disk, segment, {"resid": np.arange(count, dtype=np.float32)[:, None]})
    reader = SegmentReader(disk, segment)
    chunks = list_chunks(reader, "resid", split="train", keep={0: np.arange(count) % 257 != 0})
    options = {"name": "resid", "batch_rows": 3, "streams": 1, "window_chunks": 5}
    running = ShuffledBatches(chunks, **options)

    walked = [running.batch(1, 0, step) for step in range(10_001)]

    assert torch.equal(ShuffledBatches(chunks, **options).batch(1, 0, 10_000), walked[-1])
    seen = torch.cat(walked).flatten()
    assert len(seen.unique()) == len(seen)
    assert (seen % 257 != 0).all()
