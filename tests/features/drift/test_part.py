import functools
import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope.errors import NonFiniteError
from bathyscope.features.drift.documents import Scales
from bathyscope.features.drift.part import NightPart
from drift_nights import SCALES, NightRows, part_of, random_rows, same_arrays

# Two documents: the first has rows 0 to 2, the second rows 3 and 4.
VALUES = np.array([[1.0, 3.0], [2.0, 0.0], [5.0, 0.5], [4.0, 0.0], [0.0, 0.0]], np.float32)
INDICES = np.array([[0, 2], [2, 0], [2, 0], [2, 0], [1, 3]])
DOCUMENTS = np.array([7, 7, 7, 9, 9])
ERRORS, NORMS = np.array([1.0, 2.0, 1.0, 3.0, 1.0]), np.array([16.0, 8.0, 8.0, 32.0, 0.0])


def by_hand() -> NightPart:
    part = NightPart(4, SCALES)
    part.add(VALUES, INDICES, DOCUMENTS, errors=ERRORS, norms=NORMS)
    return part


def test_sums_worked_by_hand():
    found = by_hand().close()

    assert (found.documents, found.tokens, found.token_squares) == (2, 5, 13)
    # Latent 0 fires in two rows of the first document; 2 in three of it and one of the second.
    assert found.firings.tolist() == [2, 0, 4, 0]
    assert found.firing_squares.tolist() == [4, 0, 10, 0]
    assert found.token_firings.tolist() == [6, 0, 11, 0]
    assert found.firing_documents().tolist() == [1, 0, 2, 0]
    # Densities 2/3 and 3/3 are above a half: class 12. So is 1/2.
    assert found.classes[:, 11].tolist() == [1, 0, 2, 0]
    # Mean activations in scales of 2: latent 0 has 0.75/2, latent 2 has (10/3)/2 and 4/2.
    expected = [64 * np.log2([0.375])[0], 64 * np.log2([5 / 3])[0] + 64]
    assert found.activation.sums[[0, 2]] == pytest.approx(expected, abs=0.5)
    assert found.activation.lowest[[0, 2]].tolist() == [-91, 47]
    assert found.activation.highest[[0, 2]].tolist() == [-91, 64]


def test_series_worked_by_hand():
    found = by_hand().close()

    # Tokens 3 and 2; L0 5/3 and 1/2; norms 32/3/16 and 32/2/16; FVU 4/32 and 4/32.
    octaves = np.log2([[3, 2], [5 / 3, 1 / 2], [2 / 3, 1], [1 / 8, 1 / 8]])
    assert found.series.sums.tolist() == np.rint(64 * octaves).sum(1).tolist()
    assert found.series_documents.tolist() == [2, 2, 2, 2]
    step = 16 / 2**24
    assert found.wide["errors"] * step == pytest.approx(8.0)
    assert found.wide["norms"] * step == pytest.approx(64.0)
    assert found.wide["error_norms"] * step**2 == pytest.approx(4 * 32 + 4 * 32)


def test_a_night_without_reconstruction_has_no_norms_and_no_fvu():
    part = NightPart(4, Scales(2.0, 1.0))
    part.add(VALUES, INDICES, DOCUMENTS)

    assert part.close().series_documents.tolist() == [2, 2, 0, 0]
    with pytest.raises(ValueError, match="pass both or neither"):
        part.add(VALUES, INDICES, DOCUMENTS + 5, errors=ERRORS)


def lengths_and_cuts():
    lengths = st.lists(st.integers(1, 9), min_size=1, max_size=8)
    return lengths.flatmap(
        lambda found: st.tuples(
            st.just(found),
            st.lists(st.integers(0, sum(found)), max_size=5).map(sorted),
            st.integers(1, sum(found)),
        )
    )


@settings(max_examples=60, deadline=None)
@given(case=lengths_and_cuts(), seed=st.integers(0, 3))
def test_any_cut_into_units_and_batches_gives_the_same_integers(case, seed):
    lengths, cuts, batch = case
    rows = random_rows(lengths, seed=seed)
    whole = part_of(rows)
    ends = [0, *cuts, sum(lengths)]
    parts = [
        part_of(rows.cut(start, stop), batch=batch) for start, stop in itertools.pairwise(ends)
    ]

    left = functools.reduce(joined, parts)
    right = functools.reduce(lambda later, earlier: joined(earlier, later), reversed(parts))

    assert same_arrays(left.to_arrays(), whole.to_arrays())
    assert same_arrays(right.to_arrays(), whole.to_arrays())
    assert same_arrays(left.close().to_arrays(), whole.close().to_arrays())
    assert whole.close().documents == len(lengths)


def joined(earlier: NightPart, later: NightPart) -> NightPart:
    made = NightPart.from_arrays(earlier.to_arrays())
    made.join(later)
    return made


def test_a_document_over_many_units_stays_one_document():
    rows = random_rows([40], seed=1)
    parts = [part_of(rows.cut(start, start + 4)) for start in range(0, 40, 4)]
    night = functools.reduce(joined, parts).close()

    assert (night.documents, night.tokens) == (1, 40)
    assert same_arrays(night.to_arrays(), part_of(rows).close().to_arrays())


def test_parts_survive_a_file_and_go_on():
    rows = random_rows([5, 3, 6], seed=2)
    part = part_of(rows.cut(0, 7))
    file = io.BytesIO()
    np.savez(file, **part.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        again = NightPart.from_arrays(dict(arrays))

    again.join(part_of(rows.cut(7, 14)))
    assert same_arrays(again.to_arrays(), part_of(rows).to_arrays())
    assert part.close().documents == 2


def test_wrong_orders_and_rows_change_nothing():
    part = by_hand()
    before = {name: array.copy() for name, array in part.to_arrays().items()}

    def refused(error, match, **changes):
        rows = NightRows(VALUES, INDICES, DOCUMENTS, ERRORS, NORMS)._replace(**changes)
        with pytest.raises(error, match=match):
            part.add(
                rows.values, rows.indices, rows.documents, errors=rows.errors, norms=rows.norms
            )
        assert same_arrays(part.to_arrays(), before)

    refused(ValueError, "document 7 follows document 9")
    refused(ValueError, "row 3 is of document 5", documents=np.array([9, 9, 9, 5, 5]))
    refused(ValueError, "wanted 0 to 3", indices=INDICES + 9, documents=DOCUMENTS + 9)
    refused(ValueError, "wanted the document of each row", documents=DOCUMENTS[:2])
    refused(ValueError, "wanted one per row, 5", errors=ERRORS[:1], documents=DOCUMENTS + 9)
    not_finite = np.full(5, np.nan)
    refused(NonFiniteError, "squared error", errors=not_finite, documents=DOCUMENTS + 9)
    refused(NonFiniteError, "pass scales", norms=NORMS * 1e30, documents=DOCUMENTS + 9)
    huge = (VALUES * 1e30).astype(np.float32)
    refused(NonFiniteError, "activations up to 5e\\+30", values=huge, documents=DOCUMENTS + 9)
    with pytest.raises(ValueError, match="follows document"):
        part.join(by_hand())
    assert same_arrays(part.to_arrays(), before)


def test_parts_of_another_dictionary_or_scale_are_refused():
    with pytest.raises(ValueError, match="cannot add 6 latents"):
        by_hand().join(part_of(random_rows([3, 3], seed=0, first=20)))
    with pytest.raises(ValueError, match="scales are 0"):
        NightPart(4, Scales(0.0, 1.0))
    with pytest.raises(ValueError, match="num_latents is 0"):
        NightPart(0, SCALES)


def test_empty_rows_and_empty_parts_add_nothing():
    part, empty = by_hand(), NightPart(4, SCALES)
    part.add(VALUES[:0], INDICES[:0], DOCUMENTS[:0], errors=ERRORS[:0], norms=NORMS[:0])
    part.join(empty)
    empty.join(part)

    assert same_arrays(part.to_arrays(), by_hand().to_arrays())
    assert same_arrays(empty.to_arrays(), part.to_arrays())
    assert NightPart(4, SCALES).close().documents == 0
