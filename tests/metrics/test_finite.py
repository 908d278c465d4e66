import pytest
import torch

from bathyscope.errors import NonFiniteError
from bathyscope.metrics.finite import require_finite


def test_finite_numbers_pass():
    require_finite("x", torch.tensor([0.0, -1e38]))
    require_finite("nothing", torch.zeros(0, 3))


def test_the_message_names_tensor_count_and_place():
    x = torch.zeros(3, 2, dtype=torch.bfloat16)
    x[1, 1], x[2, 0] = float("-inf"), float("nan")

    with pytest.raises(NonFiniteError, match=r"x of shape \(3, 2\).*has 2 values.*\(1, 1\) \(-inf"):
        require_finite("x", x)
