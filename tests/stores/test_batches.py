import numpy as np
import pytest
import torch

from bathyscope.errors import ConfigError, StoreError
from bathyscope.stores.batches import ShuffledBatches
from bathyscope.stores.chunks import Chunks, Part
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


def part_of(reader, *, split="train", keep=lambda rows: np.ones(len(rows), dtype=bool), **more):
    """A part whose filter is a function of row numbers."""

    def keep_unit(unit):
        return keep(np.arange(unit.start * ROWS_PER_ITEM, unit.stop * ROWS_PER_ITEM))

    return Part(reader, more.get("names", ["resid"]), split=split, keep=keep_unit)


def chunks_of(reader, **how):
    return Chunks([part_of(reader, **how)])


def batches_of(chunks, **changes):
    fields = {"batch_rows": 12, "streams": 4, "window_chunks": 3}
    return ShuffledBatches(chunks, **{**fields, **changes})


def numbers_of(batch):
    assert torch.equal(batch[:, 1], -batch[:, 0])
    return batch[:, 0].long().tolist()


def naive_epoch(batches, chunk_rows, seed, epoch):
    """The steps of an epoch, with every stream written out whole first."""
    sizes = np.array([len(rows) for rows in chunk_rows])
    order = EpochOrder(
        sizes, seed, epoch, batches.batch_rows, batches.num_streams, batches.window_chunks
    )
    dealt = np.arange(len(sizes), dtype=np.uint32)
    np.random.default_rng([seed, epoch, 0]).shuffle(dealt)
    streams = []
    for stream in range(batches.num_streams):
        mine = dealt[stream :: batches.num_streams]
        written = []
        # The first windows differ in length, from all of a window down to a part of it.
        size = batches.window_chunks
        first = size - stream * size // batches.num_streams
        for index, stop in enumerate(range(first, len(mine) + size, size)):
            window = [r for c in mine[max(stop - size, 0) : stop] for r in chunk_rows[c]]
            if index == 0:
                window = [r for c in mine[:stop] for r in chunk_rows[c]]
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
    assert [(c.unit.index, c.start, c.stop) for c in map(train.__getitem__, range(71, 74))] == [
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

    chunks = Chunks([Part(reader, ["resid"], split="train")])

    assert [(c.start, c.stop, len(c.keep)) for c in chunks] == [(0, 4, 4), (4, 7, 3)]
    assert chunks.sizes.tolist() == [4, 3]


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

    batches = batches_of(Chunks([part_of(reader), part_of(other)]))
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

    # 4 streams of windows of 3 chunks of 4 rows; one more where a step crosses two windows.
    assert max(held) <= 4 * 3 * 4 + 3 * 4
    assert held[0] < 4 * 3 * 4, "first windows are staggered"
    assert len(reads) == len(set(reads)), "no chunk is read twice"


def test_too_few_rows_are_refused_with_both_counts(reader):
    chunks = chunks_of(reader)

    with pytest.raises(StoreError, match=r"296 training rows of resid; a batch needs 297"):
        batches_of(chunks, batch_rows=297)
    assert batches_of(chunks, batch_rows=296).num_steps(0, 0) == 1
    with pytest.raises(StoreError, match="0 training rows of nothing"):
        batches_of(Chunks([]))


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
    options = {"batch_rows": 16, "streams": 4, "window_chunks": 3}
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
    keep = np.arange(count) % 257 != 0
    chunks = Chunks([Part(reader, ["resid"], split="train", keep=lambda unit: keep)])
    options = {"batch_rows": 3, "streams": 1, "window_chunks": 5}
    running = ShuffledBatches(chunks, **options)

    walked = [running.batch(1, 0, step) for step in range(10_001)]

    assert torch.equal(ShuffledBatches(chunks, **options).batch(1, 0, 10_000), walked[-1])
    seen = torch.cat(walked).flatten()
    assert len(seen.unique()) == len(seen)
    assert (seen % 257 != 0).all()


def test_rows_that_fit_are_read_once_and_come_in_the_same_order(reader, monkeypatch):
    chunks = chunks_of(reader, keep=lambda rows: rows % 5 != 0)
    plain = batches_of(chunks)
    size = plain.num_rows * 2 * 4
    kept = batches_of(chunks, memory_bytes=size)
    reads = []
    real = Chunks.read
    monkeypatch.setattr(
        Chunks, "read", lambda self, numbers: reads.extend(numbers) or real(self, numbers)
    )

    assert kept.in_memory
    assert not batches_of(chunks, memory_bytes=size - 1).in_memory
    for epoch in (0, 1, 0):
        for step in range(kept.num_steps(0, epoch)):
            kept.batch(0, epoch, step)
    assert len(reads) == len(set(reads)) <= len(chunks)
    for step in (0, 7):
        assert torch.equal(kept.batch(2, 1, step), plain.batch(2, 1, step))


def test_origins_say_where_each_row_comes_from(reader):
    batches = batches_of(chunks_of(reader, keep=lambda rows: rows % 3 != 0))

    for step in (0, 4):
        origins = batches.origins(0, 1, step)
        numbers = origins[:, 1] * ROWS_PER_ITEM + origins[:, 2]
        assert origins[:, 0].tolist() == [0] * 12
        assert numbers.tolist() == numbers_of(batches.batch(0, 1, step))


@pytest.fixture
def two_hooks(disk, write_segment):
    """Two arrays with chunks of 4 and of 8 rows; row r holds r, and -r and r + 0.5."""
    first = ArraySpec("first", (1,), "float32", "float32", chunk_rows=4, shard_rows=16)
    second = ArraySpec("second", (2,), "float32", "float32", chunk_rows=8, shard_rows=16)
    segment = Segment("seg", UnitPlan((("train", 0, 60),), 16), 1, (first, second), 16)
    numbers = np.arange(60, dtype=np.float32)
    rows = {"first": numbers[:, None], "second": np.stack([-numbers, numbers + 0.5], axis=1)}
    write_segment(disk, segment, rows)
    return SegmentReader(disk, segment)


@pytest.mark.parametrize("names", [["first", "second"], ["second", "first"]])
@pytest.mark.parametrize("filtered", [False, True])
def test_hook_points_are_read_side_by_side(two_hooks, names, filtered):
    def keep(unit):
        rows = np.arange(unit.start, unit.stop)
        return rows % 3 != 0 if filtered else np.ones(len(rows), dtype=bool)

    chunks = Chunks([Part(two_hooks, names, split="train", keep=keep)])
    batches = batches_of(chunks, batch_rows=4, streams=2, window_chunks=2)

    assert (chunks.width, chunks.name) == (3, " + ".join(names))
    seen = []
    for step in range(batches.num_steps(0, 0)):
        rows = batches.batch(0, 0, step)
        first, second = (rows[:, :1], rows[:, 1:])
        if names[0] == "second":
            first, second = rows[:, 2:], rows[:, :2]
        assert torch.equal(second[:, :1], -first)
        assert torch.equal(second[:, 1:], first + 0.5)
        seen += first[:, 0].long().tolist()
    assert len(seen) == len(set(seen))
    assert not filtered or all(r % 3 for r in seen)


def test_rows_of_different_widths_are_no_store(two_hooks):
    parts = [Part(two_hooks, [name], split="train") for name in ("first", "second")]

    with pytest.raises(StoreError, match="different shapes cannot be read as one"):
        Chunks(parts)


def test_a_split_without_units_has_no_chunks(two_hooks):
    part = Part(two_hooks, ["first"], split="held_out")

    assert len(part) == 0
    assert len(Chunks([part])) == 0


def test_units_that_are_not_done_are_passed_over(disk, small_segment, small_rows, write_segment):
    write_segment(disk, small_segment, small_rows, units={1, 2})
    chunks = Chunks([Part(SegmentReader(disk, small_segment), ["wide"], split="train")])

    assert [c.unit.index for c in map(chunks.__getitem__, range(len(chunks)))] == [1] * 4
    np.testing.assert_array_equal(
        chunks.read(np.arange(4)).view(torch.int16).numpy().astype(np.uint16),
        small_rows["wide"][8:16],
    )


@pytest.mark.parametrize("memory_bytes", [0, 2**20])
def test_rows_that_are_set_aside_are_in_no_batch_of_any_epoch(reader, memory_bytes):
    chunks = chunks_of(reader)
    batches = batches_of(chunks, aside_rows=14, memory_bytes=memory_bytes)
    aside = {n for block in batches.aside() for n in numbers_of(block)}
    assert len(aside) == batches.num_aside == 14
    assert batches.num_rows == 37 * ROWS_PER_ITEM - 14
    for epoch in (0, 1):
        for step in range(batches.num_steps(3, epoch)):
            given = numbers_of(batches.batch(3, epoch, step))
            assert not aside & set(given)
            origins = batches.origins(3, epoch, step)
            assert (origins[:, 1] * ROWS_PER_ITEM + origins[:, 2]).tolist() == given


def test_without_rows_aside_batches_are_as_before(reader):
    plain, none = batches_of(chunks_of(reader)), batches_of(chunks_of(reader), aside_rows=0)
    assert torch.equal(plain.batch(0, 0, 0), none.batch(0, 0, 0))
    assert list(none.aside()) == []
