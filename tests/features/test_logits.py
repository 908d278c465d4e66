import pytest
import torch

from bathyscope.errors import NonFiniteError
from bathyscope.features.logits import promoted_tokens


def test_effects_worked_by_hand():
    W_dec = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    unembedding = torch.tensor([[3.0, 0.0], [1.0, 1.0], [-1.0, 5.0]])

    found = promoted_tokens(W_dec, unembedding, num_tokens=2)

    # Row 0: effects 3, 1, -1, mean 1. Row 1: 0, 2, 10, mean 4.
    assert found.top_ids.tolist() == [[0, 1], [2, 1]]
    assert found.top_values.tolist() == [[2, 0], [6, -2]]
    assert found.bottom_ids.tolist() == [[2, 1], [0, 1]]
    assert found.bottom_values.tolist() == [[-2, 0], [-4, -2]]


def test_the_gain_of_the_final_norm_scales_the_directions():
    W_dec, unembedding = torch.tensor([[1.0, 1.0]]), torch.tensor([[4.0, 0.0], [0.0, 3.0]])

    # Effects 4 and 3 without gain; 4·½ and 3·2 with it.
    assert promoted_tokens(W_dec, unembedding, num_tokens=1).top_ids.tolist() == [[0]]
    gained = promoted_tokens(W_dec, unembedding, norm_gain=torch.tensor([0.5, 2.0]), num_tokens=1)
    assert gained.top_ids.tolist() == [[1]]
    assert gained.top_values.tolist() == [[2.0]]


def test_a_common_shift_of_all_tokens_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    W_dec, unembedding = (torch.randn(n, 8, generator=generator) for n in (5, 63))
    shifted = promoted_tokens(W_dec, unembedding + torch.arange(8.0), num_tokens=3)
    plain = promoted_tokens(W_dec, unembedding, num_tokens=3)

    assert torch.equal(shifted.top_ids, plain.top_ids)
    assert torch.allclose(shifted.top_values, plain.top_values, atol=1e-4)


@pytest.mark.parametrize("num_tokens", [1, 3, 4, 65])
def test_ties_go_to_the_smaller_id(num_tokens):
    generator = torch.Generator().manual_seed(1)
    # Whole numbers are exact in float32, and few of them over 65 tokens: ties everywhere.
    W_dec = torch.randint(-1, 2, (33, 2), generator=generator).float()
    unembedding = torch.randint(-1, 2, (65, 2), generator=generator).float()
    found = promoted_tokens(W_dec, unembedding, num_tokens=num_tokens, block=8)

    for row, effects in enumerate((W_dec @ unembedding.T).tolist()):
        by_value = sorted(range(65), key=lambda token: (-effects[token], token))
        by_negative = sorted(range(65), key=lambda token: (effects[token], token))
        assert found.top_ids[row].tolist() == by_value[:num_tokens]
        assert found.bottom_ids[row].tolist() == by_negative[:num_tokens]


def test_a_zero_row_promotes_nothing():
    found = promoted_tokens(torch.zeros(1, 2), torch.ones(5, 2), num_tokens=2)

    assert found.top_ids.tolist() == found.bottom_ids.tolist() == [[0, 1]]
    assert found.top_values.tolist() == [[0, 0]]


@pytest.mark.parametrize("block", [1, 2, 64])
def test_blocks_do_not_change_the_result(block):
    generator = torch.Generator().manual_seed(2)
    W_dec = torch.randn(5, 4, generator=generator)
    unembedding = torch.randn(31, 4, generator=generator).to(torch.bfloat16)
    found = promoted_tokens(W_dec, unembedding, num_tokens=4, block=block)
    effects = W_dec.double() @ unembedding.double().T
    wanted, ids = (effects - effects.mean(1, keepdim=True)).topk(4)

    assert torch.equal(found.top_ids, ids)
    assert torch.allclose(found.top_values.double(), wanted, atol=1e-5)


def test_bad_input_is_refused():
    W_dec, unembedding = torch.ones(2, 3), torch.ones(5, 3)
    with pytest.raises(ValueError, match="of one d"):
        promoted_tokens(W_dec, torch.ones(5, 4))
    with pytest.raises(ValueError, match="W_dec has no rows"):
        promoted_tokens(torch.ones(0, 3), unembedding, num_tokens=2)
    with pytest.raises(ValueError, match=r"norm_gain \(4,\): wanted \[3\]"):
        promoted_tokens(W_dec, unembedding, norm_gain=torch.ones(4), num_tokens=2)
    with pytest.raises(ValueError, match="wanted 1 to 5 tokens"):
        promoted_tokens(W_dec, unembedding, num_tokens=6)
    with pytest.raises(NonFiniteError, match="W_dec of shape"):
        promoted_tokens(W_dec * float("nan"), unembedding, num_tokens=2)
