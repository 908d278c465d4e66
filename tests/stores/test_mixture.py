import numpy as np
import pytest
import torch

from bathyscope.errors import ConfigError
from bathyscope.stores.batches import ShuffledBatches
from bathyscope.stores.chunks import Chunks, Part
from bathyscope.stores.manifests import Segment
from bathyscope.stores.mixture import MixedBatches, split_batch
from bathyscope.stores.objects import Objects
from bathyscope.stores.rows import SegmentReader
from bathyscope.stores.shards import ArraySpec
from bathyscope.values import UnitPlan


@pytest.fixture
def source(tmp_path, write_segment):
    """A function that stores `count` rows, which count from `first`, and gives their chunks."""

    def make(first, count):
        spec = ArraySpec("resid", (1,), "float32", "float32", chunk_rows=4, shard_rows=16)
        segment = Segment("seg", UnitPlan((("train", 0, count),), 32), 1, (spec,), 32)
        objects = Objects(str(tmp_path / str(first)))
        rows = np.arange(first, first + count, dtype=np.float32)[:, None]
        write_segment(objects, segment, {"resid": rows})
        return Chunks([Part(SegmentReader(objects, segment), ["resid"], split="train")])

    return make


def mixture(chunks, rows, **settings):
    fields = {"streams": 2, "window_chunks": 2, **settings}
    return MixedBatches(
        [ShuffledBatches(c, batch_rows=r, **fields) for c, r in zip(chunks, rows, strict=True)]
    )


def test_each_source_gives_its_rows_to_every_batch(source):
    mixed = mixture([source(0, 320), source(1000, 640)], [12, 4])

    assert (mixed.batch_rows, mixed.num_rows) == (16, 960)
    assert mixed.num_steps(0, 0) == 320 // 12
    seen = []
    for step in range(mixed.num_steps(0, 0)):
        rows = mixed.batch(0, 0, step)[:, 0].long()
        assert (rows[:12] < 320).all()
        assert (rows[12:] >= 1000).all()
        seen += rows.tolist()
    assert len(seen) == len(set(seen))
    with pytest.raises(IndexError, match="step 26 of an epoch of 26"):
        mixed.batch(0, 0, 26)


def test_the_next_epoch_takes_other_rows_of_the_larger_source(source):
    mixed = mixture([source(0, 64), source(1000, 6400)], [4, 4])
    epochs = [
        {int(r) for s in range(mixed.num_steps(0, e)) for r in mixed.batch(0, e, s)[4:, 0]}
        for e in range(2)
    ]

    assert len(epochs[0] & epochs[1]) < len(epochs[0]) / 4


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_every_step(source, world):
    chunks = [source(0, 640), source(1000, 640)]
    alone = mixture(chunks, [8, 16], streams=4)
    ranks = [mixture(chunks, [8, 16], streams=4, rank=r, world=world) for r in range(world)]

    for step in (0, 3, alone.num_steps(1, 0) - 1):
        parts = torch.cat([rank.batch(1, 0, step) for rank in ranks])[:, 0]
        assert sorted(parts.tolist()) == sorted(alone.batch(1, 0, step)[:, 0].tolist())


def test_origins_name_source_part_item_and_position(source):
    mixed = mixture([source(0, 320), source(1000, 640)], [12, 4])

    origins = mixed.origins(0, 0, 5)

    assert origins.shape == (16, 4)
    numbers = origins[:, 0] * 1000 + origins[:, 2]
    assert numbers.tolist() == mixed.batch(0, 0, 5)[:, 0].long().tolist()


@pytest.mark.parametrize(
    ("rows", "weights", "multiple", "parts"),
    [
        (16, [1, 1], 1, [8, 8]),
        (16, [3, 1], 1, [12, 4]),
        (10, [1, 1, 1], 1, [4, 3, 3]),
        (4096, [0.9, 0.1], 128, [3712, 384]),
        (8, [1], 8, [8]),
        (7, [0.5, 0.25, 0.25], 1, [3, 2, 2]),
    ],
)
def test_a_batch_is_split_by_weight(rows, weights, multiple, parts):
    assert split_batch(rows, weights, multiple=multiple) == parts
    assert sum(parts) == rows


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([], "Weights"),
        ([1, 0], "Weights"),
        ([1, -1], "Weights"),
        ([1, float("nan")], "Weights"),
        ([1, float("inf")], "Weights"),
        ([1000, 1], "leaves none to a source of weight 1 of 1001"),
    ],
)
def test_weights_that_are_no_shares_are_refused(weights, said):
    with pytest.raises(ConfigError, match=said):
        split_batch(16, weights)
    with pytest.raises(ConfigError, match="no multiple of 5"):
        split_batch(16, [1], multiple=5)
