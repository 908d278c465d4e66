import numpy as np
import pytest

from bathyscope.errors import NonFiniteError
from bathyscope.features.firings import flatten_rows


def test_padding_leaves_and_the_rest_keeps_its_order():
    values = np.array([[0.5, 0.0], [2.0, 1.0]], dtype=np.float16)
    indices = np.array([[3, 99], [0, 3]], dtype=np.uint32)

    found = flatten_rows(values, indices, np.array([8, 4]), num_latents=4)

    assert found.latents.tolist() == [3, 0, 3]
    assert found.rows.tolist() == [8, 4, 4]
    assert found.values.tolist() == [0.5, 2.0, 1.0]
    assert [column.dtype for column in found] == [np.int64, np.int64, np.float32]


def test_no_rows_give_no_firings():
    found = flatten_rows(np.zeros((0, 2)), np.zeros((0, 2), int), np.zeros(0, int), num_latents=1)

    assert len(found.latents) == len(found.rows) == len(found.values) == 0


def flatten(values=((1.0, 2.0),), indices=((0, 1),), rows=(5,)):
    return flatten_rows(np.array(values), np.array(indices), np.array(rows), num_latents=2)


def test_bad_rows_are_refused():
    with pytest.raises(NonFiniteError, match="row 5 has value nan for latent 1"):
        flatten(values=[[1.0, np.nan]])
    with pytest.raises(NonFiniteError, match="row 5 has value inf for latent 0"):
        flatten(values=[[1e300, 1.0]])
    with pytest.raises(ValueError, match="indices run from 0 to 2: wanted 0 to 1"):
        flatten(indices=[[0, 2]])
    with pytest.raises(ValueError, match="indices run from -1"):
        flatten(indices=[[-1, 1]])
    with pytest.raises(ValueError, match="row id -3 is negative"):
        flatten(rows=[-3])
    with pytest.raises(ValueError, match=r"wanted \[n, k\], \[n, k\] and \[n\]"):
        flatten(rows=[1, 2])
