import numpy as np
import pytest
import tensorstore
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope.errors import NonFiniteError, StoreError
from bathyscope.stores.codecs import (
    CODECS,
    FP8,
    INT8,
    ZSTD,
    compress,
    decompress,
    dequantise,
    quantise,
)
from bathyscope.stores.manifests import Segment
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.rows import SegmentReader, to_disk
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.units import create_segment, encoded, write_unit
from bathyscope.values import Receipt, UnitPlan


def segment_of(codec, width=5):
    dtype = {"int8": "int8", "fp8": "uint8"}.get(codec, "uint16")
    main = ArraySpec("resid", (width,), dtype, "bfloat16", 2, 6, codec)
    arrays = [main]
    if codec in (INT8, FP8):
        arrays.append(ArraySpec("resid.scale", (), "float32", "float32", 2, 6, scales_of="resid"))
    return Segment("seg", UnitPlan((("train", 0, 11),), 6), arrays=tuple(arrays), rows_per_unit=6)


def write(objects, segment, rows):
    create_segment(objects, segment)
    for unit in segment.plan.units():
        part = encoded(segment, "resid", rows[unit.start : unit.stop])
        shards = write_unit(objects, segment, unit=unit, rows=part, check=lambda: None)
        receipt = Receipt(unit.index, term=1, valid=unit.num_items, shards=shards)
        Receipts(objects, "seg").create(receipt)


def test_int8_rows_by_hand():
    rows = torch.tensor([[1.0, -127.0, 0.5, 63.5], [0.0, 0.0, 0.0, 0.0], [2.54, 0.01, 0.0, -2.54]])

    codes, scales = quantise(rows, INT8)

    # Halves go to the even code: 0.5 to 0, 63.5 to 64.
    assert codes[:2].tolist() == [[1, -127, 0, 64], [0, 0, 0, 0]]
    assert codes[2].tolist() == [127, 0, 0, -127]
    np.testing.assert_allclose(scales, [1.0, 0.0, 0.02], rtol=1e-6)
    assert dequantise(codes, scales, INT8)[0].tolist() == [1.0, -127.0, 0.0, 64.0]
    assert dequantise(codes, scales, INT8)[1].tolist() == [0.0] * 4


def test_fp8_rows_by_hand():
    # e4m3 has three bits of fraction: between 256 and 448 only multiples of 32.
    codes, scales = quantise(torch.tensor([[448.0, 270.0, 1.0, 1.0625]]), FP8)

    assert scales.tolist() == [1.0]
    assert dequantise(codes, scales, FP8).tolist() == [[448.0, 256.0, 1.0, 1.0]]


def test_one_value_a_thousand_times_larger_costs_int8_the_others():
    torch.manual_seed(0)
    rows = torch.randn(256, 64)
    rows[:, 3] = 1000.0

    codes, scales = quantise(rows, INT8)
    error = (dequantise(codes, scales, INT8) - rows).abs()

    assert (error <= torch.from_numpy(scales)[:, None] / 2 * (1 + 1e-5)).all()
    # The step is 1000 / 127 = 7.9: everything else becomes zero.
    assert (codes[:, :3] == 0).all()
    codes, scales = quantise(rows, FP8)
    kept = dequantise(codes, scales, FP8)
    large = rows.abs() > 1000 / 448 * 2**-6
    assert ((kept - rows).abs() <= rows.abs() / 16 + 1e-6)[large].all()


@pytest.mark.parametrize("codec", [INT8, FP8])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_is_refused_with_its_number(codec, bad):
    rows = torch.zeros(4, 3)
    rows[2, 1] = bad

    with pytest.raises(NonFiniteError, match=f"Row 2 holds NaN or infinity, which codec {codec}"):
        quantise(rows, codec)


@pytest.mark.parametrize("codec", [INT8, FP8])
@pytest.mark.parametrize("value", [1e-45, 1e-38, 3e38])
def test_the_smallest_and_largest_values_stay_finite(codec, value):
    rows = torch.full((1, 3), value)
    kept = dequantise(*quantise(rows, codec), codec)

    assert torch.isfinite(kept).all()
    assert (kept - rows).abs().max() <= max(value / 100, 1e-43)


@settings(deadline=None, max_examples=60)
@given(data=st.binary(min_size=2, max_size=600))
def test_compression_loses_nothing(data):
    chunk = np.frombuffer(data[: len(data) // 2 * 2], dtype=np.uint16)
    out = np.empty(chunk.nbytes, dtype=np.uint8)

    decompress(memoryview(compress(chunk)), out)

    assert out.tobytes() == chunk.tobytes()


def test_a_frame_of_another_length_or_of_garbage_is_refused():
    frame = memoryview(compress(np.arange(100, dtype=np.uint16)))

    with pytest.raises(StoreError, match="200 bytes after decompression, not 10"):
        decompress(frame, np.empty(10, dtype=np.uint8))
    with pytest.raises(StoreError, match="cannot be decompressed"):
        decompress(memoryview(b"garbage that is no frame"), np.empty(10, dtype=np.uint8))


@pytest.mark.parametrize("width", [1, 5, 64])
@pytest.mark.parametrize("codec", CODECS)
def test_two_other_readers_see_the_stored_rows(disk, codec, width):
    torch.manual_seed(0)
    rows = torch.randn(11, width).bfloat16()
    segment = segment_of(codec, width)
    write(disk, segment, rows)

    wanted = encoded(segment, "resid", rows)
    for name, part in wanted.items():
        there = zarr.open_array(disk.zarr(), path=f"{name}/seg", mode="r")
        np.testing.assert_array_equal(there[:11], part)
        assert not there[11:].any()
        spec = {"driver": "zarr3", "kvstore": f"file://{disk.url}/{name}/seg/"}
        np.testing.assert_array_equal(tensorstore.open(spec).result()[:11].read().result(), part)


@pytest.mark.parametrize("codec", CODECS)
def test_rows_come_back_in_their_logical_dtype(objects, codec):
    torch.manual_seed(0)
    rows = torch.randn(11, 5).bfloat16()
    segment = segment_of(codec)
    write(objects, segment, rows)
    reader = SegmentReader(objects, segment)

    found = torch.cat([reader.read_tensor("resid", unit) for unit in reader.units])
    filled = torch.empty(3, 5, dtype=torch.bfloat16)
    reader.read_into("resid", reader.units[0], 1, filled)

    assert found.dtype == torch.bfloat16
    if codec in (INT8, FP8):
        assert torch.equal(found, dequantise(*quantise(rows, codec), codec).bfloat16())
    else:
        assert torch.equal(found, rows)
    assert torch.equal(filled, found[1:4])


def test_a_damaged_compressed_chunk_is_named(disk):
    segment = segment_of(ZSTD)
    write(disk, segment, torch.randn(11, 5).bfloat16())
    stored = bytearray(disk.get("resid/seg/c.0.0"))
    stored[20] ^= 1
    disk.put("resid/seg/c.0.0", bytes(stored))
    reader = SegmentReader(disk, segment)

    with pytest.raises(StoreError, match=r"shard resid/seg/c\.0\.0 is damaged: chunk 0 has"):
        reader.read("resid", reader.units[0])


def test_codes_of_bfloat16_bits_are_those_of_the_values():
    rows = torch.tensor([[1.0, -2.0]]).bfloat16()

    assert encoded(segment_of("none", 2), "resid", rows)["resid"].tolist() == to_disk(rows).tolist()
    assert encoded(segment_of(INT8, 2), "resid", rows)["resid"].tolist() == [[64, -127]]
