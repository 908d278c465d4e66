import numpy as np
import pytest

from bathyscope.errors import NonFiniteError
from bathyscope.features.windows import latent_activations, token_window


@pytest.mark.parametrize(
    ("position", "length", "wanted"),
    [
        (50, 128, slice(26, 59)),
        (3, 128, slice(0, 12)),
        (125, 128, slice(101, 128)),
        (24, 33, slice(0, 33)),
        (0, 1, slice(0, 1)),
    ],
)
def test_windows_are_cut_at_the_ends_of_the_item(position, length, wanted):
    assert token_window(position, length) == wanted


def test_a_window_of_one_token():
    assert token_window(5, 9, before=0, after=0) == slice(5, 6)


def test_positions_outside_the_item_are_refused():
    with pytest.raises(ValueError, match="position is 9: wanted 0 to 8"):
        token_window(9, 9)
    with pytest.raises(ValueError, match="position is -1"):
        token_window(-1, 9)
    with pytest.raises(ValueError, match="before -1"):
        token_window(1, 9, before=-1)


def test_the_activations_of_one_latent():
    values = np.array([[0.5, 2.0], [1.0, 0.0], [3.0, 4.0]], dtype=np.float32)
    indices = np.array([[7, 3], [3, 7], [1, 7]], dtype=np.uint32)

    found = latent_activations(7, values, indices)

    # Row 1 holds latent 7 only as padding.
    assert found.tolist() == [0.5, 0.0, 4.0]
    assert found.dtype == np.float32
    assert latent_activations(2, values, indices).tolist() == [0, 0, 0]


def test_several_windows_at_once_and_none():
    values, indices = np.ones((2, 5, 3)), np.arange(30).reshape(2, 5, 3)

    assert latent_activations(16, values, indices).tolist() == [[0] * 5, [1, 0, 0, 0, 0]]
    assert latent_activations(0, np.zeros((0, 3)), np.zeros((0, 3), int)).shape == (0,)


def test_bad_rows_are_refused():
    values, indices = np.array([[np.nan, 1.0]]), np.array([[4, 5]])
    with pytest.raises(NonFiniteError, match="latent 4"):
        latent_activations(4, values, indices)
    assert latent_activations(5, values, indices).tolist() == [1.0]
    with pytest.raises(ValueError, match="wanted one shape"):
        latent_activations(4, values, indices[0])
    with pytest.raises(ValueError, match="latent is -1"):
        latent_activations(-1, values, indices)
