import base64
import json

import numpy as np
import pytest

from bathyscope.metrics.arrays import pack, pack_counts, unpack


def test_the_text_is_the_little_endian_bytes():
    record = pack(np.array([1, 258], dtype=np.int32))

    assert record["shape"] == [2]
    assert record["dtype"] == "<i4"
    assert base64.b64decode(record["base64"]) == bytes([1, 0, 0, 0, 2, 1, 0, 0])


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.1, -0.0, np.inf]),
        np.arange(6, dtype=np.int64).reshape(2, 3).T,
        np.zeros((0, 3), dtype=np.float32),
        np.array(7.5),
        np.array([True, False]),
        np.array([1, 258], dtype=">i4"),
    ],
    ids=["floats", "transposed", "empty", "scalar", "bool", "big-endian"],
)
def test_json_gives_every_bit_back(array):
    found = unpack(json.loads(json.dumps(pack(array))))

    assert found.shape == array.shape
    assert found.dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(found, array)
    assert np.array_equal(np.signbit(found), np.signbit(array))


@pytest.mark.parametrize(("largest", "size"), [(255, 1), (256, 2), (70_000, 4), (1 << 40, 8)])
def test_counts_take_the_smallest_type(largest, size):
    record = pack_counts(np.array([0, largest], dtype=np.int64))

    assert len(base64.b64decode(record["base64"])) == 2 * size
    assert unpack(record).tolist() == [0, largest]


def test_a_short_record_is_refused():
    record = pack(np.arange(4, dtype=np.float64))
    record["base64"] = record["base64"][:24]

    with pytest.raises(ValueError, match="needs 32 bytes, got 18"):
        unpack(record)


def test_objects_are_refused_both_ways():
    with pytest.raises(ValueError, match="cannot pack dtype object"):
        pack(np.array([object()]))
    with pytest.raises(ValueError, match="cannot unpack dtype object"):
        unpack({"dtype": "|O", "shape": [1], "base64": ""})
