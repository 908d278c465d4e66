"""Sampled dots of a batch of gradients: values, order, memory, refusals."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from bathyscope_kernels import reference
from bathyscope_kernels.attribution import sampled_dot


def make(
    oracle: SimpleNamespace, batch: int, positions: int, d: int, latents: int, n: int
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return (
        oracle.eighths(batch, positions, d, seed=1),
        oracle.eighths(latents, d, seed=2),
        torch.randint(positions, (n,), generator=generator),
        torch.randint(latents, (n,), generator=generator),
        oracle.eighths(n, seed=3),
    )


def test_a_hand_worked_score() -> None:
    gradients = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    W_dec = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    positions, latents = torch.tensor([1, 0, 1]), torch.tensor([1, 0, 0])
    assert sampled_dot(gradients, W_dec, positions, latents).tolist() == [[-4, 1, 3]]
    scale = torch.tensor([0.5, 2.0, 0.0])
    assert sampled_dot(gradients, W_dec, positions, latents, scale).tolist() == [[-2, 2, 0]]


@pytest.mark.parametrize("workspace_bytes", [256, 2**26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("batch", "positions", "d", "latents", "n"),
    [
        (1, 1, 1, 1, 1),
        (3, 7, 65, 63, 1000),
        (65, 63, 5, 1000, 65),
        (2, 1000, 3, 5, 63),
        (0, 3, 4, 5, 6),
        (3, 3, 4, 5, 0),
    ],
)
def test_exact_inputs_match_the_dense_products_bit_for_bit(
    oracle: SimpleNamespace,
    batch: int,
    positions: int,
    d: int,
    latents: int,
    n: int,
    dtype: torch.dtype,
    workspace_bytes: int,
) -> None:
    gradients, W_dec, *lists, activations = make(oracle, batch, positions, d, latents, n)
    arguments = (gradients.to(dtype), W_dec.to(dtype), *lists)
    for scale in (None, activations.to(dtype)):
        scores = sampled_dot(*arguments, scale, workspace_bytes=workspace_bytes)
        expected = reference.sampled_dot(*arguments, scale, upcast=True)
        assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert scores.shape == (batch, n)
        assert torch.equal(scores.double(), expected)


def test_scores_follow_the_order_of_the_lists(oracle: SimpleNamespace) -> None:
    gradients, W_dec, positions, latents, scale = make(oracle, 3, 7, 65, 63, 200)
    scores = sampled_dot(gradients, W_dec, positions, latents, scale)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(5))
    shuffled = sampled_dot(
        gradients, W_dec, positions[order].int(), latents[order].int(), scale[order]
    )
    assert torch.equal(shuffled, scores[:, order])


def test_normal_inputs_are_within_float32(oracle: SimpleNamespace) -> None:
    _, _, positions, latents, _ = make(oracle, 5, 9, 300, 70, 400)
    gradients, W_dec = oracle.normal(5, 9, 300, seed=0), oracle.normal(70, 300, seed=1)
    scores = sampled_dot(gradients, W_dec, positions, latents)
    expected = reference.sampled_dot(gradients, W_dec, positions, latents, upcast=True)
    assert (scores - expected).norm() / expected.norm() < 1e-5


def test_nan_stays_in_its_position(oracle: SimpleNamespace) -> None:
    gradients, W_dec, positions, latents, scale = make(oracle, 2, 7, 5, 63, 100)
    gradients[1, 3, 0] = torch.nan
    scores = sampled_dot(gradients, W_dec, positions, latents, scale)
    assert not scores[0].isnan().any()
    assert torch.equal(scores[1].isnan(), positions == 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_workspace_is_bounded(
    oracle: SimpleNamespace, peak_bytes: Callable[[Callable[[], object]], int], dtype: torch.dtype
) -> None:
    batch, d, n, workspace_bytes = 16, 256, 4000, 2**18
    gradients, W_dec, positions, latents, scale = make(oracle, batch, 2, d, 3000, n)
    gradients, W_dec = gradients.to(dtype), W_dec.to(dtype)
    # Gathered decoder rows of one position would be 2 MB, [batch, n, d] 65 MB.
    peak = peak_bytes(
        lambda: sampled_dot(
            gradients, W_dec, positions, latents, scale, workspace_bytes=workspace_bytes
        )
    )
    # Sorted positions, their order, the latents and the scale; a sort works on copies.
    assert peak <= workspace_bytes + 4 * batch * n + 48 * n


def test_wrong_arguments_are_refused() -> None:
    gradients, W_dec = torch.ones(2, 3, 4), torch.ones(5, 4)
    lists = torch.zeros(6, dtype=torch.int64)
    with pytest.raises(ValueError, match="transpose it"):
        sampled_dot(gradients, W_dec.T, lists, lists)
    with pytest.raises(ValueError, match=r"gradients \[3, 4\]"):
        sampled_dot(gradients[0], W_dec, lists, lists)
    with pytest.raises(ValueError, match=r"latents \[5\]; wanted lists \[n\] of one length"):
        sampled_dot(gradients, W_dec, lists, lists[:5])
    with pytest.raises(ValueError, match=r"activations \[1\]"):
        sampled_dot(gradients, W_dec, lists, lists, torch.ones(1))
    with pytest.raises(ValueError, match=r"positions of torch\.float32"):
        sampled_dot(gradients, W_dec, lists.float(), lists)
    with pytest.raises(ValueError, match="positions from 3 to 3, wanted 0 to 2"):
        sampled_dot(gradients, W_dec, lists + 3, lists)
    with pytest.raises(ValueError, match="latents from -1 to -1, wanted 0 to 4"):
        sampled_dot(gradients, W_dec, lists, lists - 1)
    with pytest.raises(ValueError, match=r"activations torch\.float64"):
        sampled_dot(gradients, W_dec, lists, lists, torch.ones(6).double())
    with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]"):
        sampled_dot(gradients, W_dec.to("meta"), lists, lists)
