import numpy as np
import pytest
import torch

from bathyscope.errors import MissingArtifact, StoreError
from bathyscope.stores.manifests import Segment
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.rows import SegmentReader, as_logical, to_disk
from bathyscope.stores.shards import ArraySpec
from bathyscope.values import UnitPlan

# NaNs with payloads and signs, infinities, subnormals, both zeros, the largest and smallest.
ODD_BITS = np.array(
    [
        0x7FC0,
        0x7F81,
        0xFFC1,
        0x7F80,
        0xFF80,
        0x0001,
        0x8001,
        0x007F,
        0x0000,
        0x8000,
        0x7F7F,
        0x0080,
    ],
    dtype=np.uint16,
)


def test_only_units_with_a_receipt_exist(objects, small_segment, small_rows, write_segment):
    write_segment(objects, small_segment, small_rows, units={0, 2})

    reader = SegmentReader(objects, small_segment)

    assert [u.index for u in reader.units] == [0, 2]
    assert [u.split for u in reader.units] == ["train", "held_out"]
    np.testing.assert_array_equal(reader.read("narrow", reader.units[0]), np.arange(1, 9))
    np.testing.assert_array_equal(reader.read("narrow", reader.units[1]), np.arange(17, 21))


def test_a_segment_without_receipts_has_no_units(objects, small_segment):
    assert SegmentReader(objects, small_segment).units == []


def test_padding_is_never_read(objects, small_segment, small_rows, write_segment):
    write_segment(objects, small_segment, small_rows)
    reader = SegmentReader(objects, small_segment)
    last = reader.units[2]

    assert reader.read("wide", last).shape == (4, 3)
    np.testing.assert_array_equal(reader.read("wide", last, stop=100), small_rows["wide"][16:])
    np.testing.assert_array_equal(reader.read("wide", last, start=3), small_rows["wide"][19:])
    assert reader.read("wide", last, start=4).shape == (0, 3)


@pytest.mark.parametrize(("start", "stop"), [(0, 8), (0, 1), (3, 5), (7, 8), (4, 4)])
def test_rows_are_counted_from_the_start_of_the_unit(
    objects, small_segment, small_rows, write_segment, start, stop
):
    write_segment(objects, small_segment, small_rows)
    reader = SegmentReader(objects, small_segment)

    found = reader.read("wide", reader.units[1], start=start, stop=stop)

    np.testing.assert_array_equal(found, small_rows["wide"][8 + start : 8 + stop])


def test_items_are_asked_for_by_their_number_in_the_corpus(
    objects, small_segment, small_rows, write_segment
):
    write_segment(objects, small_segment, small_rows)
    reader = SegmentReader(objects, small_segment)

    both = reader.items("wide", reader.units[1], start=12, stop=14)
    second = reader.items("narrow", reader.units[1], start=13, stop=14)

    np.testing.assert_array_equal(both, small_rows["wide"][8:16].reshape(2, 4, 3))
    np.testing.assert_array_equal(second, [[13, 14, 15, 16]])


@pytest.mark.parametrize(("start", "stop"), [(11, 12), (12, 15), (13, 12)])
def test_items_of_other_units_are_refused(
    objects, small_segment, small_rows, write_segment, start, stop
):
    write_segment(objects, small_segment, small_rows)
    reader = SegmentReader(objects, small_segment)

    with pytest.raises(AssertionError):
        reader.items("wide", reader.units[1], start=start, stop=stop)


def test_bits_become_their_logical_dtype(objects, small_segment, write_segment):
    values = torch.arange(60, dtype=torch.float32).reshape(20, 3).to(torch.bfloat16)
    rows = {"wide": to_disk(values), "narrow": np.arange(20, dtype=np.uint32)}
    write_segment(objects, small_segment, rows)
    reader = SegmentReader(objects, small_segment)

    found = reader.read_tensor("wide", reader.units[1], start=1, stop=3)

    assert found.dtype == torch.bfloat16
    assert torch.equal(found, values[9:11])
    assert reader.read_tensor("narrow", reader.units[0]).dtype == torch.uint32


def test_every_bit_of_bfloat16_comes_back(objects, small_segment, write_segment):
    bits = np.resize(ODD_BITS, (20, 3))
    rows = as_logical(bits.copy(), "bfloat16")
    assert rows.dtype == torch.bfloat16
    assert torch.isnan(rows).any()
    write_segment(
        objects, small_segment, {"wide": to_disk(rows), "narrow": np.zeros(20, dtype=np.uint32)}
    )
    reader = SegmentReader(objects, small_segment)

    back = torch.cat([reader.read_tensor("wide", unit) for unit in reader.units])

    np.testing.assert_array_equal(back.view(torch.uint16).numpy(), bits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int32])
def test_other_dtypes_lie_as_they_are(dtype):
    rows = torch.tensor([[1, 2], [3, 4]]).to(dtype)
    name = str(dtype).removeprefix("torch.")

    on_disk = to_disk(rows.t())

    assert on_disk.dtype == np.dtype(name)
    assert torch.equal(as_logical(on_disk, name), rows.t())


def test_rows_that_may_not_be_written_to_are_copied():
    rows = np.frombuffer(b"\x80\x3f\x00\x40", dtype=np.uint16)

    found = as_logical(rows, "bfloat16")
    found[0] = 7

    assert found.tolist() == [7.0, 2.0]
    assert rows[0] == 0x3F80


@pytest.mark.parametrize(
    ("damage", "said"),
    [(None, "no object"), (b"", "0 bytes"), ("cut", "67 bytes"), ("more", "69 bytes")],
    ids=["missing", "empty", "truncated", "longer"],
)
def test_a_shard_of_another_size_is_named_before_any_read(
    objects, small_segment, small_rows, write_segment, damage, said
):
    write_segment(objects, small_segment, small_rows)
    key = "wide/seg/c.3.0"
    whole = objects.get(key)
    assert len(whole) == 68
    if damage is None:
        objects.delete(key)
    else:
        objects.put(key, {"cut": whole[:-1], "more": whole + b"x"}.get(damage, damage))

    with pytest.raises(StoreError) as caught:
        SegmentReader(objects, small_segment)

    text = str(caught.value)
    assert f"Shard {key} of {objects.location} has {said}" in text
    assert "its receipt says 68" in text
    assert "redo.segment=seg 'redo.units=[1]'`, then run the stage again" in text


def test_a_damaged_unit_without_a_receipt_troubles_nobody(
    objects, small_segment, small_rows, write_segment
):
    write_segment(objects, small_segment, small_rows)
    objects.delete("wide/seg/c.3.0")
    objects.delete("receipts/seg/00000/00000001.json")

    assert [u.index for u in SegmentReader(objects, small_segment).units] == [0, 2]


def test_a_flipped_bit_is_an_error_that_says_what_to_do(
    objects, small_segment, small_rows, write_segment
):
    write_segment(objects, small_segment, small_rows)
    damaged = bytearray(objects.get("wide/seg/c.2.0"))
    damaged[0] ^= 1
    objects.put("wide/seg/c.2.0", bytes(damaged))
    reader = SegmentReader(objects, small_segment)

    with pytest.raises(StoreError, match=r"Rows 0 to 8 of unit 1 of wide .*units=\[1\]"):
        reader.read("wide", reader.units[1])
    np.testing.assert_array_equal(reader.read("wide", reader.units[0]), small_rows["wide"][:8])


@pytest.mark.parametrize(("start", "stop"), [(0, 8), (4, 8), (5, 6)])
def test_a_shard_that_goes_while_the_reader_is_open_is_no_zeros(
    objects, small_segment, small_rows, write_segment, start, stop
):
    write_segment(objects, small_segment, small_rows)
    reader = SegmentReader(objects, small_segment)
    objects.delete("wide/seg/c.3.0")

    with pytest.raises(StoreError, match=r"Shard wide/seg/c\.3\.0 .* has gone"):
        reader.read("wide", reader.units[1], start=start, stop=stop)
    np.testing.assert_array_equal(
        reader.read("wide", reader.units[1], start=0, stop=4), small_rows["wide"][8:12]
    )


def test_rows_of_zeros_are_rows(objects, small_segment, write_segment):
    rows = {"wide": np.zeros((20, 3), dtype=np.uint16), "narrow": np.zeros(20, dtype=np.uint32)}
    write_segment(objects, small_segment, rows)
    reader = SegmentReader(objects, small_segment)

    np.testing.assert_array_equal(reader.read("wide", reader.units[1]), rows["wide"][:8])


def test_an_array_that_the_segment_lacks_is_named(
    objects, small_segment, small_rows, write_segment
):
    write_segment(objects, small_segment, small_rows)
    reader = SegmentReader(objects, small_segment)

    with pytest.raises(MissingArtifact, match="no array 'values'"):
        reader.read("values", reader.units[0])


def test_a_unit_may_have_one_row(objects, write_segment):
    spec = ArraySpec("one", (1,), "uint8", "uint8", chunk_rows=1, shard_rows=1)
    segment = Segment("seg", UnitPlan((("train", 0, 1),), 1), arrays=(spec,))
    write_segment(objects, segment, {"one": np.array([[9]], dtype=np.uint8)})

    reader = SegmentReader(objects, segment)

    assert reader.items("one", reader.units[0], start=0, stop=1).tolist() == [[[9]]]
    assert Receipts(objects, "seg").units().tolist() == [0]
