"""A dictionary before its first step."""

from __future__ import annotations

import torch

from bathyscope.dictionaries.topk import TopK
from bathyscope.training.initial import initial_topk


def initial(seed: int = 3) -> TopK:
    mean = torch.arange(5, dtype=torch.float64)
    return initial_topk(d_in=5, num_latents=40, k=2, hook_point="mlp_out.1", mean=mean, seed=seed)


def test_unit_rows_encoder_is_the_decoder_and_the_bias_is_the_mean() -> None:
    dictionary = initial()
    torch.testing.assert_close(dictionary.W_dec.detach().norm(dim=1), torch.ones(40))
    assert torch.equal(dictionary.W_enc, dictionary.W_dec)
    assert dictionary.b_dec.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert not dictionary.b_enc.any()
    assert {p.dtype for p in dictionary.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in dictionary.parameters())
    assert dictionary.columns[0].hook_point == "mlp_out.1"


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
