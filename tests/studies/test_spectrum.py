"""Spectra worked by hand, isotropic and flat rows, and what sampling does to them."""

from __future__ import annotations

import json
import math

import pytest
import torch

from bathyscope.errors import NonFiniteError
from bathyscope.metrics.controls import SecondMoments
from bathyscope.studies.spectrum import Spectrum, of_eigenvalues, spectrum, standard_errors


def moments(x: torch.Tensor) -> SecondMoments:
    made = SecondMoments(x.shape[1])
    for rows in x.split(1000):
        made.update(rows)
    return made


def measured(x: torch.Tensor) -> Spectrum:
    return spectrum(moments(x))


def four(found: Spectrum) -> list[float]:
    return [
        found.stable_rank,
        found.participation_ratio,
        found.effective_rank_eigenvalues,
        found.effective_rank_singular_values,
    ]


def test_a_spectrum_worked_by_hand() -> None:
    # λ = 4, 1, 1, 0: Σλ = 6, Σλ² = 18; p = 2/3, 1/6, 1/6; σ = 2, 1, 1, so 1/2, 1/4, 1/4.
    found = of_eigenvalues(torch.tensor([1.0, 0.0, 4.0, 1.0]), num_rows=10)
    entropy = -(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 6)

    assert four(found) == pytest.approx([6 / 4, 2, math.exp(entropy), 2**1.5])
    assert found.numerical_rank == 3
    stored = json.loads(json.dumps(found.to_dict()))
    assert stored["participation_ratio_share"] == pytest.approx(0.5)
    assert stored["numerical_rank_share"] == 0.75
    assert (stored["num_rows"], stored["width"]) == (10, 4)


def test_corners_of_a_box_worked_by_hand() -> None:
    # Variances 4 and 1 about a large mean, which is no part of it.
    x = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]]) + 1000

    assert measured(x).participation_ratio == pytest.approx(25 / 17)
    assert measured(x).stable_rank == pytest.approx(5 / 4)


def test_isotropic_rows_use_all_dimensions() -> None:
    exact = measured(torch.cat([torch.eye(8), -torch.eye(8)]))
    assert four(exact) == pytest.approx([8] * 4)

    generator = torch.Generator().manual_seed(0)
    found = measured(torch.randn(20_000, 32, generator=generator))
    assert found.participation_ratio == pytest.approx(32, rel=5e-3)
    assert found.effective_rank_eigenvalues == pytest.approx(32, rel=5e-3)
    assert found.effective_rank_singular_values == pytest.approx(32, rel=5e-3)


def test_rows_on_a_line_use_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 1, generator=generator) @ torch.randn(1, 64, generator=generator) + 3
    found = measured(x.double())

    assert four(found) == pytest.approx([1] * 4, abs=1e-5)
    assert found.numerical_rank <= 3


def test_one_dimension_is_one() -> None:
    found = measured(torch.tensor([[1.0], [2.0], [5.0]]))

    assert four(found) == pytest.approx([1] * 4)


def test_the_order_of_the_four_and_their_freedom_from_scale() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2000, 24, generator=generator) * torch.linspace(0.1, 4, 24)
    found = four(measured(x))

    assert found == sorted(found)
    assert four(measured(x * 1e-4)) == pytest.approx(found, rel=1e-4)


def test_few_rows_lower_the_participation_ratio_as_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    found = measured(torch.randn(200, 100, generator=generator))

    assert found.participation_ratio == pytest.approx(200 * 100 / 300, rel=0.03)
    few = measured(torch.randn(5, 100, generator=generator))
    assert few.numerical_rank == 4


def test_streams_and_one_block_agree() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2500, 6, generator=generator, dtype=torch.float64)
    whole = SecondMoments(6)
    whole.update(x)

    assert four(spectrum(whole)) == pytest.approx(four(measured(x)), rel=1e-12)


def test_standard_errors_are_those_of_fresh_draws() -> None:
    generator = torch.Generator().manual_seed(3)
    scale = torch.tensor([3.0, 1.0, 1.0, 0.5])
    draws = [torch.randn(400, 4, generator=generator) * scale for _ in range(100)]
    drawn = torch.tensor([four(measured(x)) for x in draws]).std(dim=0)
    guessed = [standard_errors([moments(rows) for rows in x.split(20)]) for x in draws[:20]]

    for place, name in enumerate(
        ("stable_rank", "participation_ratio", "effective_rank_eigenvalues")
    ):
        mean = sum(one[name] for one in guessed) / len(guessed)
        assert mean == pytest.approx(float(drawn[place]), rel=0.2)
    assert guessed[0]["stable_rank_share"] == pytest.approx(guessed[0]["stable_rank"] / 4)


def test_equal_parts_have_no_error_and_two_are_too_few() -> None:
    part = moments(torch.eye(3))

    assert standard_errors([part] * 3)["participation_ratio"] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="2 parts"):
        standard_errors([part, part])


def test_what_has_no_spectrum_is_refused() -> None:
    with pytest.raises(ValueError, match="0 rows were seen"):
        spectrum(SecondMoments(3))
    with pytest.raises(ValueError, match="1 rows were seen"):
        measured(torch.ones(1, 3))
    with pytest.raises(ValueError, match="they are the same"):
        measured(torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"wanted \[width\]"):
        of_eigenvalues(torch.eye(2), num_rows=3)
    with pytest.raises(NonFiniteError, match="eigenvalues"):
        of_eigenvalues(torch.tensor([1.0, math.nan]), num_rows=3)
