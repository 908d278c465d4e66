"""The autoencoder against numbers worked by hand and the algebra of its docstrings."""

from __future__ import annotations

import pytest
import torch

from bathyscope.dictionaries.dictionary import Dictionary, topk_autoencoder
from bathyscope.errors import ConfigError


def two_latents(k: int = 1) -> Dictionary:
    """Two latents over two dimensions: z0 reads x0, z1 reads twice x1 less 1."""
    dictionary = topk_autoencoder(d_in=2, num_latents=2, k=k, dtype=torch.float32)
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        dictionary.b_enc.copy_(torch.tensor([0.0, -1.0]))
        dictionary.W_dec.copy_(torch.tensor([[0.6, 0.8], [1.0, 0.0]]))
        dictionary.b_dec.copy_(torch.tensor([1.0, 0.5]))
    return dictionary.requires_grad_(False)


def random_dictionary(num_latents: int = 40, d_in: int = 8, k: int = 4) -> Dictionary:
    generator = torch.Generator().manual_seed(0)
    dictionary = topk_autoencoder(d_in=d_in, num_latents=num_latents, k=k, dtype=torch.float32)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return dictionary.requires_grad_(False)


def test_encode_and_decode_by_hand() -> None:
    # x - b_dec is (2, 1), (0, 2), (-1, -1); pre-activations (2, 1), (0, 3), (-1, -3).
    x = torch.tensor([[3.0, 1.5], [1.0, 2.5], [0.0, -0.5]])
    dictionary = two_latents()
    latents = dictionary.encode(x)
    assert latents.values.tolist() == [[2.0], [3.0], [0.0]]
    assert latents.indices.tolist() == [[0], [1], [0]]
    assert latents.count.tolist() == [1, 1, 0]
    wanted = torch.tensor([[1 + 2 * 0.6, 0.5 + 2 * 0.8], [1 + 3.0, 0.5], [1.0, 0.5]])
    torch.testing.assert_close(dictionary.decode(latents), wanted)
    assert torch.equal(dictionary(x), dictionary.decode(latents))


def test_lists_of_a_store_are_decoded_alike() -> None:
    dictionary = random_dictionary()
    x = torch.randn(7, 8, generator=torch.Generator().manual_seed(3))
    latents = dictionary.encode(x)
    lists = dictionary.decode_lists(latents.values, latents.indices)
    assert torch.equal(lists, dictionary.decode(latents))
    # Slots that are not used have value 0, whatever their index says.
    wider = torch.nn.functional.pad(latents.values, (0, 3))
    indices = torch.nn.functional.pad(latents.indices, (0, 3), value=4)
    torch.testing.assert_close(dictionary.decode_lists(wider, indices), lists)


def test_k_of_all_latents_keeps_only_positive_ones() -> None:
    latents = two_latents(k=2).encode(torch.tensor([[3.0, 1.5], [1.0, 2.5]]))
    assert latents.values.tolist() == [[2.0, 1.0], [3.0, 0.0]]
    assert latents.count.tolist() == [2, 1]


@pytest.mark.parametrize("scale", [0.25, 3.0, 17.3])
def test_folded_scale_reads_unscaled_rows(scale: float) -> None:
    x = 5 * torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    unfolded, folded = random_dictionary(), random_dictionary()
    folded.fold_scales(torch.full((8,), scale), torch.full((8,), scale))
    before, after = unfolded.encode(x / scale), folded.encode(x)
    assert torch.equal(after.indices, before.indices)
    torch.testing.assert_close(after.values, scale * before.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(folded(x), scale * unfolded(x / scale), rtol=1e-5, atol=1e-4)


def test_folding_leaves_both_matrices_alone() -> None:
    folded, before = random_dictionary(), random_dictionary()
    folded.fold_scales(torch.full((8,), 2.0), torch.full((8,), 2.0))
    assert torch.equal(folded.W_enc, before.W_enc)
    assert torch.equal(folded.W_dec, before.W_dec)
    assert torch.equal(folded.b_enc, 2 * before.b_enc)
    assert torch.equal(folded.b_dec, 2 * before.b_dec)


def test_normalised_rows_have_unit_norm_and_zero_rows_stay() -> None:
    dictionary = random_dictionary()
    dictionary.W_dec[3] = 0
    dictionary.W_dec[4] *= 1e-12
    directions = dictionary.W_dec[5].clone()
    dictionary.normalize_decoder()
    norms = dictionary.W_dec.norm(dim=1)
    assert norms[3] == 0
    torch.testing.assert_close(norms[torch.arange(40) != 3], torch.ones(39))
    torch.testing.assert_close(dictionary.W_dec[5], directions / directions.norm())


@pytest.mark.parametrize("k", [-1, 0, 9])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ConfigError, match=f"dictionary.k is {k}.*between 1 and 8"):
        topk_autoencoder(d_in=2, num_latents=8, k=k, dtype=torch.float32)


def test_sizes_and_the_column_block() -> None:
    dictionary = topk_autoencoder(
        d_in=3, num_latents=8, k=8, hook_point="mlp_out.2", dtype=torch.bfloat16
    )
    assert (dictionary.d_in, dictionary.num_latents, dictionary.k) == (3, 8, 8)
    (block,) = dictionary.inputs
    assert (block.hook_point, block.start, block.stop) == ("mlp_out.2", 0, 3)
    assert {p.dtype for p in dictionary.parameters()} == {torch.bfloat16}
