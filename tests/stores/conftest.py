import itertools

import numpy as np
import pytest

from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.units import create_segment, write_unit
from bathyscope.values import Receipt, UnitPlan
from clocks import Clock
from s3_server import BUCKET, environment, s3_server

_numbers = itertools.count()


@pytest.fixture
def clock():
    """A clock that stands still until it is moved."""
    return Clock()


@pytest.fixture(params=["disk", "memory", "s3"])
def objects(request, tmp_path):
    """A store that is empty: on disk, in memory, and on a server that speaks S3."""
    if request.param == "disk":
        return Objects(str(tmp_path / "store"))
    if request.param == "memory":
        return Objects(f"memory://stores-{next(_numbers)}")
    return request.getfixturevalue("bucket")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The environment of clients of a running S3 server."""
    with s3_server(tmp_path_factory.mktemp("s3") / "server.log") as found:
        yield found


@pytest.fixture
def bucket(server):
    """An empty folder of a bucket."""
    with environment(server):
        yield Objects(f"s3://{BUCKET}/stores-{next(_numbers)}")


@pytest.fixture
def disk(tmp_path):
    """A store that is empty, on disk."""
    return Objects(str(tmp_path / "store"))


@pytest.fixture
def small_segment():
    """Two hook points, 3 units of 2 items of 4 rows; the last unit has one item.

    `wide` has 2 shards per unit, `narrow` one.
    """
    wide = ArraySpec("wide", (3,), "uint16", "bfloat16", chunk_rows=2, shard_rows=4)
    narrow = ArraySpec("narrow", (), "uint32", "uint32", chunk_rows=4, shard_rows=8)
    plan = UnitPlan((("train", 10, 14), ("held_out", 14, 15)), 2)
    return Segment("seg", plan, rows_per_item=4, arrays=(wide, narrow), rows_per_unit=8)


@pytest.fixture
def write_segment():
    """A function that writes units of a segment, with receipts, from rows by array name.

    `rows[name]` holds the rows of all units one after the other, without padding.
    """

    def write(objects, segment, rows, *, units=None):
        create_segment(objects, segment)
        first = 0
        for unit in segment.plan.units():
            valid = unit.num_items * segment.rows_per_item
            part = {name: array[first : first + valid] for name, array in rows.items()}
            first += valid
            if units is None or unit.index in units:
                shards = write_unit(objects, segment, unit=unit, rows=part, check=lambda: None)
                receipt = Receipt(unit.index, term=1, valid=valid, shards=shards)
                Receipts(objects, segment.name).create(receipt)

    return write


@pytest.fixture
def small_rows():
    """Rows of `small_segment`: 20 rows, each of which says which one it is."""
    numbers = np.arange(1, 21)
    wide = (numbers[:, None] * 10 + np.arange(3)).astype(np.uint16)
    return {"wide": wide, "narrow": numbers.astype(np.uint32)}
