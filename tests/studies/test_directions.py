"""Superposition of small known arrangements, of random rows, and of what must be refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from bathyscope.errors import NonFiniteError
from bathyscope.studies import pairs, unit_rows
from bathyscope.studies.directions import (
    Directions,
    feature_dimensions,
    mean_squared_overlap,
    measure_directions,
)


def draw(num_rows: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, width, generator=generator, dtype=torch.float64)


def polygon(corners: int) -> Tensor:
    angles = torch.arange(corners, dtype=torch.float64) * (2 * math.pi / corners)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


TETRAHEDRON = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5


@pytest.mark.parametrize(
    ("W", "dimensionality", "interference", "squared_overlap"),
    [
        (torch.eye(5), 1, 0, 0),
        (torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 1 / 2, 1, 1),
        (polygon(5), 2 / 5, 3 / 2, 3 / 8),
        (TETRAHEDRON, 3 / 4, 1 / 3, 1 / 9),
    ],
    ids=["orthogonal", "antipodal", "pentagon", "tetrahedron"],
)
def test_known_arrangements(
    W: Tensor, dimensionality: float, interference: float, squared_overlap: float
) -> None:
    found = feature_dimensions(W)

    assert found.dimensionality.tolist() == pytest.approx([dimensionality] * len(W), abs=1e-6)
    assert found.interference.tolist() == pytest.approx([interference] * len(W), abs=1e-6)
    assert mean_squared_overlap(W) == pytest.approx(squared_overlap, abs=1e-6)
    whole = measure_directions(W)
    assert whole.dimensionality_quantiles == pytest.approx([dimensionality] * 5, abs=1e-6)
    assert whole.dimensions_per_feature == pytest.approx(W.shape[1] / len(W))
    # All of these are tight frames of the dimensions that they span.
    assert whole.dimensionality_sum == pytest.approx(int(torch.linalg.matrix_rank(W)))


def test_rows_of_unequal_length_worked_by_hand() -> None:
    # Ŵ_1 = (1, 0): 4 + 1; Ŵ_2 = (0.6, 0.8): 1.25² + (2 · 0.6)²... of rows (2, 0) and (0.75, 1).
    found = feature_dimensions(torch.tensor([[2.0, 0.0], [0.75, 1.0]]))

    assert found.interference.tolist() == pytest.approx([0.75**2, 1.2**2])
    assert found.dimensionality.tolist() == pytest.approx(
        [4 / (4 + 0.75**2), 1.25**2 / (1.25**2 + 1.2**2)]
    )


def test_gram_gives_what_all_pairs_give() -> None:
    W = draw(60, 7) * torch.linspace(0.1, 3, 60)[:, None]
    unit = W / W.norm(dim=1, keepdim=True)
    others = (unit @ W.T).square().fill_diagonal_(0)
    cos = (unit @ unit.T).fill_diagonal_(0)
    found = feature_dimensions(W)

    squares = W.square().sum(1)
    assert torch.allclose(found.interference, others.sum(1), rtol=1e-12)
    assert torch.allclose(found.dimensionality, squares / (squares + others.sum(1)), rtol=1e-12)
    assert mean_squared_overlap(W) == pytest.approx(float(cos.square().sum() / 60 / 59), rel=1e-12)
    whole = measure_directions(W)
    assert whole.mean_abs_overlap == pytest.approx(float(cos.abs().sum() / 60 / 59), rel=1e-12)
    assert whole.mean_row_max == pytest.approx(float(cos.abs().amax(1).mean()), rel=1e-12)
    assert whole.dimensionality_sum <= 7


def test_random_rows_agree_with_theory() -> None:
    found = measure_directions(draw(2048, 128))

    assert found.overlap_times_width == pytest.approx(1, rel=5e-3)
    assert found.mean_abs_overlap == pytest.approx(found.random_abs_overlap, rel=5e-3)
    assert found.mean_row_max == pytest.approx(found.random_row_max, rel=5e-3)
    assert found.mean_row_max < found.random_row_max_bound
    assert found.welch_bound**2 < found.mean_squared_overlap
    assert found.mean_row_max_error == 0


def test_published_measurement_of_16384_rows() -> None:
    W = draw(16384, 768).float()
    found = measure_directions(W, sample_rows=256)

    assert found.mean_squared_overlap == pytest.approx(1.302e-3, rel=1e-3)
    assert found.mean_abs_overlap == pytest.approx(0.0288, abs=5e-5)
    assert found.mean_row_max == pytest.approx(0.1486, abs=4 * found.mean_row_max_error)
    assert found.mean_row_max_error < 1e-3
    assert found.welch_bound == pytest.approx(0.0352, abs=5e-5)


def test_scale_and_rotation_change_no_overlap() -> None:
    W = draw(40, 6)
    turn = torch.linalg.qr(draw(6, 6, seed=1)).Q
    one, other = measure_directions(W), measure_directions((W * 1e-20) @ turn)

    assert other.mean_squared_overlap == pytest.approx(one.mean_squared_overlap, rel=1e-12)
    assert other.mean_row_max == pytest.approx(one.mean_row_max, rel=1e-12)
    assert other.dimensionality_mean == pytest.approx(one.dimensionality_mean, rel=1e-12)


def figures(found: Directions) -> list[float]:
    flat = found.to_dict()
    del flat["weighted"]
    return [*flat.pop("dimensionality_quantiles").values(), *flat.values()]


@pytest.mark.parametrize("weights", [None, torch.arange(50)])
@pytest.mark.parametrize("sample_rows", [20, 50])
def test_blocked_equals_unblocked(
    monkeypatch: pytest.MonkeyPatch, weights: Tensor | None, sample_rows: int
) -> None:
    W = draw(50, 4)
    whole = measure_directions(W, weights=weights, sample_rows=sample_rows)
    monkeypatch.setattr(unit_rows, "_BLOCK_ELEMENTS", 12)
    monkeypatch.setattr(pairs, "_SIDE", 7)
    blocked = measure_directions(W, weights=weights, sample_rows=sample_rows)

    assert figures(blocked) == pytest.approx(figures(whole), rel=1e-12, abs=1e-12)


def test_a_whole_weight_counts_like_that_many_equal_tokens() -> None:
    # Σ over pairs of different rows: copies of a row are not its pairs.
    W, times = draw(6, 3), torch.tensor([1, 5, 2, 1, 1, 3])
    cos = torch.nn.functional.normalize(W) @ torch.nn.functional.normalize(W).T
    pair = torch.outer(times, times).double().fill_diagonal_(0)
    wanted = float((pair * cos.square()).sum() / pair.sum())
    found = measure_directions(W, weights=times)

    assert mean_squared_overlap(W, times.double() * 0.1) == pytest.approx(wanted, rel=1e-12)
    assert found.mean_squared_overlap == pytest.approx(wanted, rel=1e-12)
    assert found.mean_abs_overlap == pytest.approx(float((pair * cos.abs()).sum() / pair.sum()))
    largest = cos.abs().fill_diagonal_(0).amax(1)
    assert found.mean_row_max == pytest.approx(float((times * largest).sum() / times.sum()))
    assert found.weighted


def test_equal_weights_are_no_weights() -> None:
    W = draw(30, 4)
    one, other = measure_directions(W), measure_directions(W, weights=torch.full((30,), 7.0))

    assert figures(other) == pytest.approx(figures(one), rel=1e-12)


def test_a_direction_that_rows_share_is_told() -> None:
    W = draw(400, 50)
    assert measure_directions(W).common_direction == pytest.approx(1 / 400, rel=0.5)
    assert measure_directions(polygon(5)).common_direction == pytest.approx(0, abs=1e-12)
    assert measure_directions(torch.ones(5, 3)).common_direction == pytest.approx(1)

    # Each row is (a, b) with a the common part: ‖mean‖² = 0.8, of overlaps 0.8².
    shared = torch.nn.functional.normalize(draw(400, 50)) * 0.2**0.5
    found = measure_directions(torch.cat([torch.full((400, 1), 0.8**0.5), shared], dim=1))
    assert found.common_direction == pytest.approx(0.8, rel=5e-3)
    assert found.mean_squared_overlap == pytest.approx(0.8**2 + 0.2**2 / 50, rel=5e-3)


def test_samples_of_rows_come_near_all_rows_and_keep_to_their_seed() -> None:
    W = draw(3000, 16)
    often = 1 / torch.arange(1, 3001)
    for weights in (None, often):
        whole = measure_directions(W, weights=weights, sample_rows=3000)
        some = measure_directions(W, weights=weights, sample_rows=400, seed=1)
        assert (whole.rows_compared, some.rows_compared) == (3000, 400)
        assert 0 < some.mean_abs_overlap_error < 0.01
        for name in ("mean_abs_overlap", "mean_row_max"):
            apart = abs(getattr(some, name) - getattr(whole, name))
            assert apart < 4 * getattr(some, f"{name}_error")
        assert some == measure_directions(W, weights=weights, sample_rows=400, seed=1)
        other = measure_directions(W, weights=weights, sample_rows=400, seed=2)
        assert other.mean_row_max != some.mean_row_max


def test_zero_and_unused_rows_are_left_out_and_counted() -> None:
    W = torch.cat([draw(5, 3), torch.zeros(2, 3), draw(4, 3, seed=1)])
    kept = torch.cat([draw(5, 3), draw(4, 3, seed=1)[:3]])
    weights = torch.ones(11)
    weights[10] = 0
    found, wanted = measure_directions(W, weights=weights), measure_directions(kept)

    assert (found.num_rows, found.num_zero_rows, found.num_unused_rows) == (8, 2, 1)
    assert (wanted.num_rows, wanted.num_zero_rows, wanted.num_unused_rows) == (8, 0, 0)
    assert found.mean_squared_overlap == pytest.approx(wanted.mean_squared_overlap, rel=1e-12)
    assert found.mean_row_max == pytest.approx(wanted.mean_row_max, rel=1e-12)
    assert found.dimensionality_mean == pytest.approx(wanted.dimensionality_mean, rel=1e-12)
    alone = feature_dimensions(W)
    assert alone.dimensionality.isnan().nonzero()[:, 0].tolist() == [5, 6]
    assert alone.interference.isnan().nonzero()[:, 0].tolist() == [5, 6]


def test_one_row_has_no_pairs() -> None:
    found = measure_directions(torch.tensor([[3.0, 4.0]]))

    assert found.dimensionality_mean == pytest.approx(1)
    assert found.interference_mean == pytest.approx(0, abs=1e-12)
    assert math.isnan(found.mean_squared_overlap)
    assert math.isnan(found.mean_row_max)
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["mean_squared_overlap"] is None
    assert stored["random_row_max"] is None
    assert stored["dimensionality_quantiles"]["0.5"] == pytest.approx(1)


def test_one_row_with_all_the_weight_has_no_pairs_either() -> None:
    weights = torch.tensor([1.0, 1e-200], dtype=torch.float64)

    assert math.isnan(mean_squared_overlap(torch.ones(2, 3), weights))


def test_two_rows_and_one_dimension() -> None:
    found = measure_directions(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert found.mean_squared_overlap == pytest.approx(1 / 2)
    assert found.mean_row_max == pytest.approx(0.5**0.5)

    line = measure_directions(torch.tensor([[1.0], [-2.0], [0.5]]))
    assert line.mean_squared_overlap == pytest.approx(1)
    assert line.mean_row_max == pytest.approx(1)
    assert line.dimensionality_sum == pytest.approx(1)
    assert line.welch_bound == pytest.approx(1)


def test_low_precision_is_measured_as_stored() -> None:
    W = draw(200, 16).bfloat16()

    assert measure_directions(W) == measure_directions(W.double())


@pytest.mark.parametrize(
    ("W", "weights", "said"),
    [
        (torch.empty(0, 3), None, r"\(0, 3\)"),
        (torch.empty(3, 0), None, r"\(3, 0\)"),
        (torch.ones(3), None, r"\(3,\)"),
        (torch.ones(3, 2, dtype=torch.int64), None, "int64"),
        (torch.zeros(3, 2), None, "3 are zero"),
        (torch.ones(3, 2), torch.zeros(3), "weight 0"),
        (torch.ones(3, 2), torch.ones(2), r"\(2,\): wanted one per row, \[3\]"),
        (torch.ones(3, 2), torch.tensor([1.0, -2.0, 1.0]), "least weight is -2"),
    ],
)
def test_what_cannot_be_measured_is_refused(W: Tensor, weights: Tensor | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        measure_directions(W, weights=weights)


def test_nan_and_empty_samples_are_refused() -> None:
    W = draw(5, 3)
    W[3, 1] = math.nan
    with pytest.raises(NonFiniteError, match=r"W\[0:5\].*the first at \(3, 1\)"):
        measure_directions(W)
    with pytest.raises(NonFiniteError, match="weights"):
        mean_squared_overlap(draw(2, 3), torch.tensor([1.0, math.inf]))
    with pytest.raises(ValueError, match="sample_rows is 0"):
        measure_directions(draw(5, 3), sample_rows=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same() -> None:
    W, weights = draw(3000, 64), torch.arange(3000)
    for sample_rows in (500, 3000):
        here = measure_directions(W, weights=weights, sample_rows=sample_rows)
        there = measure_directions(W.cuda(), weights=weights.cuda(), sample_rows=sample_rows)
        assert figures(there) == pytest.approx(figures(here), rel=1e-10)
