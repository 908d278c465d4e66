"""TwoNN on surfaces of known dimension, on duplicates and ties, and where it has no answer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bathyscope.errors import NonFiniteError
from bathyscope.studies import intrinsic_dimension
from bathyscope.studies.intrinsic_dimension import two_nn

N = 2000


def even(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def line() -> Tensor:
    return even(N, 1) @ gaussian(1, 30, seed=1) + 5


def plane() -> Tensor:
    return even(N, 2) @ gaussian(2, 30, seed=1) + 5


def sphere() -> Tensor:
    return torch.nn.functional.normalize(gaussian(N, 3))


def swiss_roll() -> Tensor:
    angle = 1.5 * math.pi * (1 + 2 * even(N))
    return torch.stack([angle * angle.cos(), 21 * even(N, seed=1), angle * angle.sin()], dim=1)


@pytest.mark.parametrize(
    ("surface", "dimension"), [(line, 1), (plane, 2), (sphere, 2), (swiss_roll, 2)]
)
def test_surfaces_have_their_own_dimension(surface: Callable[[], Tensor], dimension: float) -> None:
    found = two_nn(surface())

    assert found.maximum_likelihood == pytest.approx(dimension, rel=0.07)
    assert found.linear_fit == pytest.approx(dimension, rel=0.07)
    assert found.low < found.maximum_likelihood < found.high


@pytest.mark.parametrize(("width", "tolerance"), [(1, 0.05), (2, 0.05), (5, 0.06)])
def test_isotropic_gaussians(width: int, tolerance: float) -> None:
    found = two_nn(gaussian(N, width))

    assert found.maximum_likelihood == pytest.approx(width, rel=tolerance)
    assert found.linear_fit == pytest.approx(width, rel=tolerance)
    assert (found.num_rows, found.num_duplicates, found.num_ties) == (N, 0, 0)


def test_the_bias_of_many_dimensions_is_downward() -> None:
    assert 15 < two_nn(gaussian(N, 20)).maximum_likelihood < 19
    assert two_nn(gaussian(N, 50)).maximum_likelihood < 40


def test_five_points_of_a_line_worked_by_hand() -> None:
    # At 0, 1, 3, 7, 15: μ = 3/1, 2/1, 3/2, 6/4, 12/8.
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0]])
    logs = [math.log(3), math.log(2), *[math.log(1.5)] * 3]
    found = two_nn(x, discard=0.2)

    assert found.maximum_likelihood == pytest.approx(4 / sum(logs))
    pairs = [(math.log(1.5), -math.log(1 - i / 5)) for i in (1, 2, 3)]
    pairs.append((math.log(2), -math.log(1 - 4 / 5)))
    slope = sum(a * b for a, b in pairs) / sum(a * a for a, _ in pairs)
    assert found.linear_fit == pytest.approx(slope)
    # Quantiles of χ² with 10 degrees of freedom, from a table.
    assert found.low == pytest.approx(3.24697 / (2 * sum(logs)), rel=1e-4)
    assert found.high == pytest.approx(20.48318 / (2 * sum(logs)), rel=1e-4)


def test_the_interval_covers_nearly_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        angle = 2 * math.pi * even(300, 2, seed=seed)
        found = two_nn(torch.cat([angle.cos(), angle.sin()], dim=1))
        held += found.low <= 2 <= found.high
    # 88 % of 60 are 53; under 46 would be three deviations less.
    assert held >= 46


def test_scale_shift_and_rotation_change_nothing() -> None:
    x = gaussian(500, 3)
    turned = (x @ torch.linalg.qr(gaussian(3, 3, seed=1)).Q) * 1e-3 + 2
    found = two_nn(turned)

    assert found.maximum_likelihood == pytest.approx(two_nn(x).maximum_likelihood, rel=1e-6)


def test_duplicates_are_left_out_and_counted() -> None:
    x = gaussian(300, 3)
    found, once = two_nn(torch.cat([x, x[:40], x[:10], -0.0 * x[:1], 0.0 * x[:1]])), two_nn(x)

    assert (found.num_rows, found.num_duplicates) == (301, 51)
    assert found.maximum_likelihood == pytest.approx(once.maximum_likelihood, rel=0.02)


def test_close_rows_far_from_the_origin_keep_their_digits() -> None:
    # Two clouds of 1e-3 a distance of 1e6 apart, so that the mean is near to neither.
    cloud = gaussian(400, 2) * 1e-3
    far = torch.cat([cloud, cloud.flip(1) + 1e6])

    alone = two_nn(cloud).maximum_likelihood
    assert two_nn(far).maximum_likelihood == pytest.approx(alone, rel=5e-3)


def test_blocked_equals_unblocked(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(300, 4)
    whole = two_nn(x).to_dict()
    monkeypatch.setattr(intrinsic_dimension, "_BLOCK_ELEMENTS", 300 * 7)

    assert two_nn(x).to_dict() == pytest.approx(whole, rel=1e-12)


def test_samples_keep_to_their_size_and_seed() -> None:
    x = gaussian(N, 2)
    found = two_nn(x, sample_rows=500, seed=1)

    assert found.num_rows == 500
    assert found == two_nn(x, sample_rows=500, seed=1)
    assert found.maximum_likelihood != two_nn(x, sample_rows=500, seed=2).maximum_likelihood
    assert json.loads(json.dumps(found.to_dict()))["seed"] == 1


def test_three_rows_are_enough_and_ties_are_counted() -> None:
    found = two_nn(torch.tensor([[0.0], [1.0], [2.0]]))

    # The middle row has both neighbours at 1.
    assert found.num_ties == 1
    assert found.maximum_likelihood == pytest.approx(2 / (2 * math.log(2)))


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.empty(0, 3), r"\(0, 3\)"),
        (torch.ones(4), r"\(4,\)"),
        (torch.ones(4, 2, dtype=torch.int64), "int64"),
        (torch.ones(1, 3), "1 distinct rows of 1"),
        (torch.eye(2), "2 distinct rows of 2"),
        (torch.eye(2).repeat(9, 1), "2 distinct rows of 18"),
        (torch.eye(4), "equally far"),
    ],
)
def test_what_has_no_dimension_is_refused(x: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        two_nn(x)


def test_nan_and_bad_settings_are_refused() -> None:
    x = gaussian(9, 2)
    for bad in ({"discard": 1.0}, {"discard": -0.1}, {"level": 1.0}, {"sample_rows": 2}):
        with pytest.raises(ValueError, match="sample_rows"):
            two_nn(x, **bad)  # type: ignore[arg-type]
    x[4, 1] = math.nan
    with pytest.raises(NonFiniteError, match=r"sample of rows.*\(4, 1\)"):
        two_nn(x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same() -> None:
    x = gaussian(3000, 5)
    for rows in (1000, 3000):
        here, there = (two_nn(y, sample_rows=rows).to_dict() for y in (x, x.cuda()))
        assert there == pytest.approx(here, rel=1e-10)
