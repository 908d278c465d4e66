"""A dictionary before its first step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary, topk_autoencoder
from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.training import initial as module
from bathyscope.training.forward import forward
from bathyscope.training.initial import initialise
from bathyscope.training.mesh import Single

MEAN = torch.arange(5, dtype=torch.float64)


def rows(num: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed))


def initial(seed: int = 3, num_latents: int = 40) -> Dictionary:
    dictionary = topk_autoencoder(d_in=5, num_latents=num_latents, k=2, dtype=torch.float32)
    x = rows(64, 5) + MEAN.float()
    initialise(dictionary, x=x, y=x, mean=MEAN, seed=seed)
    return dictionary


def test_unit_rows_an_encoder_along_them_and_the_mean_as_bias() -> None:
    dictionary = initial()
    torch.testing.assert_close(dictionary.W_dec.detach().norm(dim=1), torch.ones(40))
    factor = dictionary.W_enc.detach() / dictionary.W_dec.detach()
    torch.testing.assert_close(factor, factor[0, 0].expand(40, 5))
    assert dictionary.b_dec.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert not dictionary.b_enc.any()
    assert all(p.requires_grad for p in dictionary.parameters())


@pytest.mark.parametrize("activation", ["topk", "batch_topk", "jumprelu", "relu", "gated"])
def test_no_other_scale_of_the_latents_would_fit_better(activation: str) -> None:
    dictionary, x, y = made("autoencoder", activation)
    initialise(dictionary, x=x, y=y, mean=x.mean(0), seed=0)
    held = torch.tensor([200])
    with torch.no_grad():
        y_hat = forward(dictionary, x, dictionary.b_dec, Single(), held * 0).y_hats[0]
        u, target = y_hat - dictionary.b_dec, y - dictionary.b_dec
    assert float((u * target).sum() / u.square().sum()) == pytest.approx(1, rel=1e-4)


def test_the_encoder_is_a_copy() -> None:
    dictionary = initial()
    with torch.no_grad():
        dictionary.W_dec.zero_()
    assert dictionary.W_enc.any()


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    torch.manual_seed(1)
    first = initial()
    torch.manual_seed(2)
    assert torch.equal(initial().W_dec, first.W_dec)
    assert not torch.equal(initial(seed=4).W_dec, first.W_dec)


def test_a_part_of_the_latents_gets_the_directions_that_all_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BLOCK_LATENTS", 16)
    whole = initial().W_dec
    parts = [
        torch.cat([found for _, found in module._directions(num, 5, 3, first)])
        for first, num in ((0, 10), (10, 25), (35, 5))
    ]
    assert torch.equal(torch.cat(parts), whole)


def made(kind: str, activation: str, k: int = 4) -> tuple[AnyDictionary, Tensor, Tensor]:
    inputs = columns_of([("mlp_in.0", 12)])
    outputs = inputs if kind == "autoencoder" else columns_of([("mlp_out.0", 7)])
    dictionary = make_dictionary(kind, inputs, outputs, activation=activation, k=k, num_latents=200)
    x = rows(1024, 12, 1)
    y = x if kind == "autoencoder" else rows(1024, 7, 2) + x[:, :7]
    return dictionary, x, y


def test_a_transcoder_starts_with_decoder_rows_that_go_with_its_latents() -> None:
    dictionary, x, y = made("transcoder", "topk")
    initialise(dictionary, x=x, y=y, mean=y.mean(0), seed=0)
    torch.testing.assert_close(dictionary.W_dec.detach().norm(dim=1), torch.ones(200))
    # y is partly x: a latent that reads those columns writes in their direction.
    along = (dictionary.W_dec * dictionary.W_enc[:, :7]).sum(1)
    assert float((along > 0).float().mean()) > 0.95


@pytest.mark.parametrize(("activation", "times"), [("jumprelu", 1), ("relu", 4), ("gated", 4)])
def test_kinds_without_a_fixed_l0_start_near_the_one_that_is_wanted(
    activation: str, times: int
) -> None:
    dictionary, x, y = made("autoencoder", activation)
    initialise(dictionary, x=x, y=y, mean=x.mean(0), seed=0)
    with torch.no_grad():
        latents = dictionary.encode(x)
    assert float(latents.count.float().mean()) == pytest.approx(4 * times, rel=0.02)


def test_the_band_is_relative_to_the_scale_of_pre_activations() -> None:
    dictionary, x, y = made("autoencoder", "jumprelu")
    initialise(dictionary, x=x, y=y, mean=torch.zeros(12), seed=0)
    pre = x @ dictionary.W_enc.detach().T
    assert dictionary.activation.eps == pytest.approx(0.5 * float(pre.std()), rel=1e-4)
