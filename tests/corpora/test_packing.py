import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope.corpora.masks import Mask
from bathyscope.corpora.packing import PackedSequence, Packing, pack
from bathyscope.errors import ConfigError, CorpusError


def packed(documents: list[tuple[int, list[int]]], length: int) -> tuple[list, Packing]:
    packing = pack(documents, sequence_length=length, separator_id=9, special_ids={9, 8})
    return list(packing), packing


def test_a_hand_worked_example() -> None:
    # Stream: 9 1 2 3 | 9 4 9 5 | 8 6, the last two are the ragged tail.
    sequences, packing = packed([(10, [1, 2, 3]), (11, [4]), (13, [5, 8, 6])], 4)
    first, second = sequences
    assert first.tokens.tolist() == [9, 1, 2, 3]
    assert first.document.tolist() == [10, 10, 10, 10]
    assert first.offset.tolist() == [0, 1, 2, 3]
    assert first.mask.tolist() == [Mask.FIRST | Mask.SPECIAL, Mask.DOCUMENT_START, 0, 0]
    assert second.tokens.tolist() == [9, 4, 9, 5]
    assert second.document.tolist() == [11, 11, 13, 13]
    assert second.offset.tolist() == [0, 1, 0, 1]
    assert second.mask.tolist() == [3, 4, 2, 4]
    assert (packing.num_documents, packing.num_sequences, packing.num_dropped_tokens) == (3, 2, 2)


def test_a_sequence_may_begin_inside_a_document() -> None:
    # Stream: 9 1 2 | 8 9 3 | 4 9 5
    sequences, packing = packed([(0, [1, 2, 8]), (1, [3, 4]), (2, [5])], 3)
    assert [each.mask.tolist() for each in sequences] == [[3, 4, 0], [3, 2, 4], [1, 2, 4]]
    assert sequences[1].offset.tolist() == [3, 0, 1]
    assert packing.num_dropped_tokens == 0


def test_types_on_disk() -> None:
    (sequence,), _ = packed([(0, [1, 2, 3])], 4)
    assert isinstance(sequence, PackedSequence)
    assert [sequence.tokens.dtype, sequence.document.dtype, sequence.offset.dtype] == [
        np.uint32
    ] * 3
    assert sequence.mask.dtype == np.uint8
    assert (Mask.FIRST, Mask.SPECIAL, Mask.DOCUMENT_START) == (1, 2, 4)


def test_a_separator_that_is_no_special_id_is_not_marked_so() -> None:
    (sequence,) = pack([(0, [1])], sequence_length=2, separator_id=0, special_ids=())
    assert sequence.mask.tolist() == [1, 4]


@settings(max_examples=200, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 12), max_size=25), max_size=12),
    length=st.integers(1, 17),
)
def test_the_sequences_joined_are_the_stream(documents: list[list[int]], length: int) -> None:
    sequences, packing = packed(list(enumerate(documents)), length)
    kept = [(index, ids) for index, ids in enumerate(documents) if ids]
    stream = [
        (token, index, offset) for index, ids in kept for offset, token in enumerate([9, *ids])
    ]
    used = [
        (int(token), int(document), int(offset))
        for each in sequences
        for token, document, offset in zip(each.tokens, each.document, each.offset, strict=True)
    ]
    assert used == stream[: len(used)]
    assert all(len(each.tokens) == length for each in sequences)
    assert len(stream) - len(used) == packing.num_dropped_tokens < length
    assert packing.num_documents == len(kept)
    assert packing.num_empty_documents == len(documents) - len(kept)
    assert packing.num_sequences == len(sequences)
    wanted_mask = [
        (place % length == 0) + 2 * (token in (8, 9)) + 4 * (offset == 1)
        for place, (token, _, offset) in enumerate(used)
    ]
    assert [int(bits) for each in sequences for bits in each.mask] == wanted_mask


def test_no_documents_give_no_sequences() -> None:
    sequences, packing = packed([], 4)
    assert sequences == []
    assert packing.num_dropped_tokens == 0


def test_documents_are_read_only_as_far_as_needed() -> None:
    read = []

    def documents():  # type: ignore[no-untyped-def]
        for index in range(100):
            read.append(index)
            yield index, np.array([1, 2, 3])

    next(pack(documents(), sequence_length=4, separator_id=0, special_ids=()))
    assert read == [0]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ((0, [1, -1]), "token ids from -1 to 1"),
        ((0, [2**32]), "stored as uint32"),
        ((-1, [1]), "Document -1"),
        ((2**32, [1]), "document indices are stored as uint32"),
        ((0, [1.5]), "dtype float64; one flat list of integers"),
        ((0, [[1, 2]]), r"shape \(1, 2\)"),
        ((0, "text"), "one flat list of integers"),
    ],
)
def test_what_is_no_token_is_refused(document: tuple, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        list(pack([document], sequence_length=1, separator_id=0, special_ids=()))


def test_settings_that_cannot_work_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        pack([], sequence_length=0, separator_id=0, special_ids=())
    with pytest.raises(ConfigError, match="separator token id is -1"):
        pack([], sequence_length=4, separator_id=-1, special_ids=())
