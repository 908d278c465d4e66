"""A dictionary in another model's space: the same codes where the models differ by a rotation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary, topk_autoencoder
from bathyscope.studies.linear_maps import ridge_maps
from bathyscope.studies.paired_moments import PairedMoments
from bathyscope.studies.rotations import covariance_rotation, random_rotation
from bathyscope.studies.transplants import Weights, mapped, principal, tied, turned

WIDTH, LATENTS, K = 10, 24, 3


def some_weights(seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    rows = torch.nn.functional.normalize(drawn(LATENTS, WIDTH), dim=1)
    return Weights(rows + 0.1 * drawn(LATENTS, WIDTH), rows, 0.1 * drawn(LATENTS), drawn(WIDTH))


def some_rows(n: int = 600) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, WIDTH, generator=generator).double() * torch.linspace(0.5, 2, WIDTH) + 3


def reconstructed(weights: Weights, rows: Tensor) -> Tensor:
    made: Dictionary = topk_autoencoder(
        d_in=rows.shape[1], num_latents=len(weights.b_enc), k=K, dtype=torch.float64
    )
    made.load_state_dict(weights._asdict())
    with torch.no_grad():
        return made.reconstruct(rows)[1]


def fvu(rows: Tensor, again: Tensor) -> float:
    return float((rows - again).square().sum() / (rows - rows.mean(0)).square().sum())


def test_a_rotated_model_gets_the_same_dictionary_before_any_step() -> None:
    x, weights = some_rows(), some_weights()
    y = x @ random_rotation(WIDTH, seed=2).forward.T - 7
    moments = PairedMoments(WIDTH, WIDTH)
    moments.update(x, y)
    there, back = ridge_maps(moments)
    found = mapped(weights, there.matrix, back.matrix, mean_x=x.mean(0), mean_y=y.mean(0))
    own = fvu(x, reconstructed(weights, x))
    assert fvu(y, reconstructed(found, y)) == pytest.approx(own, rel=1e-4)
    torch.testing.assert_close(found.W_dec.norm(dim=1), torch.ones(LATENTS).double())


def test_means_that_are_not_the_dictionarys_do_not_matter() -> None:
    # Maps of centred rows: biases carry what the means differ by.
    x, weights = some_rows(), some_weights()
    eye = torch.eye(WIDTH).double()
    shift = torch.arange(WIDTH).double()
    found = mapped(weights, eye, eye, mean_x=x.mean(0), mean_y=x.mean(0) + shift)
    expected = reconstructed(weights, x) + shift
    torch.testing.assert_close(reconstructed(found, x + shift), expected)


def test_a_latent_that_the_map_loses_gives_way() -> None:
    weights = some_weights()
    there = torch.diag(torch.tensor([0.0] + [1.0] * (WIDTH - 1))).double()
    first = weights._replace(W_dec=torch.eye(LATENTS, WIDTH).double())
    zero = torch.zeros(WIDTH).double()
    found = mapped(first, there, torch.eye(WIDTH).double(), mean_x=zero, mean_y=zero)
    assert float(found.W_enc[0].norm()) == 0
    assert float(found.b_enc[0]) == 0
    assert bool(torch.isfinite(found.W_dec).all())


def test_a_turned_dictionary_codes_turned_rows_as_before() -> None:
    x, weights = some_rows(), some_weights()
    centre = x.mean(0)
    for rotation in (
        random_rotation(WIDTH, seed=4),
        covariance_rotation(torch.cov(x.T), seed=4),
    ):
        found = turned(weights, rotation, centre=centre)
        rows = centre + (x - centre) @ rotation.forward.T
        lengths = (weights.W_dec @ rotation.forward.T).norm(dim=1)
        # The choice of the k largest goes by values times lengths: compare codes of all latents.
        pre = (x - weights.b_dec) @ weights.W_enc.T + weights.b_enc
        again = (rows - found.b_dec) @ found.W_enc.T + found.b_enc
        torch.testing.assert_close(again, pre * lengths)


def test_a_turned_dictionary_no_longer_fits_the_rows_that_were_there() -> None:
    x = some_rows()
    # Three directions of ten, which hold most of the variance.
    weights = principal(torch.cov(x.T), x.mean(0), most=6)
    turn = random_rotation(WIDTH, seed=4)
    found = turned(weights, turn, centre=x.mean(0))
    rows = x.mean(0) + (x - x.mean(0)) @ turn.forward.T
    own = fvu(x, reconstructed(weights, x))
    assert fvu(rows, reconstructed(found, rows)) == pytest.approx(own)
    assert fvu(x, reconstructed(found, x)) > 1.3 * own


def test_principal_directions_come_with_both_signs() -> None:
    variances = torch.tensor([4.0, 9.0, 0.0, 1.0]).double()
    found = principal(torch.diag(variances), torch.full((4,), 2.0), most=5)
    assert found.W_dec.shape == (5, 4)
    assert found.W_dec.abs().argmax(1).tolist() == [1, 1, 0, 0, 3]
    torch.testing.assert_close(found.W_dec[0], -found.W_dec[1])
    torch.testing.assert_close(found.W_enc, found.W_dec)
    assert found.b_dec.tolist() == [2.0] * 4
    # All of them, k = 3 of 3: what is there is given back whole.
    whole = principal(torch.diag(variances), torch.zeros(4), most=100)
    assert len(whole.b_enc) == 6
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    rows[:, 2] = 0
    assert fvu(rows, reconstructed(whole, rows)) == pytest.approx(0, abs=1e-20)


def test_tied_weights_read_what_they_write() -> None:
    found = tied(some_weights())
    torch.testing.assert_close(found.W_enc, found.W_dec)
    assert not found.b_enc.any()


def test_latents_are_chosen_in_order() -> None:
    weights = some_weights()
    found = weights.only(torch.tensor([3, 1]))
    torch.testing.assert_close(found.W_enc, weights.W_enc[[3, 1]])
    torch.testing.assert_close(found.b_dec, weights.b_dec)


def test_what_is_made_has_the_dtype_of_the_weights() -> None:
    single = Weights(*(tensor.float() for tensor in some_weights()))
    eye, mean = torch.eye(WIDTH).double(), torch.zeros(WIDTH).double()
    found = mapped(single, eye, eye, mean_x=mean, mean_y=mean)
    again = turned(found, random_rotation(WIDTH, seed=0), centre=mean)
    assert {t.dtype for t in (*found, *again, *tied(again))} == {torch.float32}


def test_what_does_not_fit_is_refused() -> None:
    zero = torch.zeros(WIDTH).double()
    with pytest.raises(ValueError, match=r"maps are \[10, 4\] and \[10, 4\]"):
        mapped(some_weights(), torch.ones(10, 4), torch.ones(10, 4), mean_x=zero, mean_y=zero[:4])
    with pytest.raises(ValueError, match="no principal directions"):
        principal(torch.zeros(3, 3), torch.zeros(3), most=4)
