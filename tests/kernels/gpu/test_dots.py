"""Sampled dots on the GPU kernel: values, order, tiles, refusals."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels import reference
from bathyscope_kernels.gpu import dots
from bathyscope_kernels.gpu.dots import sampled_dot

pytestmark = pytest.mark.usefixtures("poisoned")


def make(
    oracle: SimpleNamespace, batch: int, positions: int, d: int, latents: int, n: int
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        oracle.eighths(batch, positions, d, seed=1),
        oracle.eighths(latents, d, seed=2),
        torch.randint(positions, (n,), generator=generator),
        torch.randint(latents, (n,), generator=generator),
        oracle.eighths(n, seed=3),
    ]


def test_a_hand_worked_score(device: torch.device) -> None:
    gradients = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], device=device)
    W_dec = torch.tensor([[1.0, 0.0], [0.0, -1.0]], device=device)
    lists = torch.tensor([1, 0, 1], device=device), torch.tensor([1, 0, 0], device=device)
    assert sampled_dot(gradients, W_dec, *lists).tolist() == [[-4, 1, 3]]
    scale = torch.tensor([0.5, 2.0, 0.0], device=device)
    assert sampled_dot(gradients, W_dec, *lists, scale).tolist() == [[-2, 2, 0]]


@pytest.mark.parametrize(
    ("dtypes", "precision"),
    [
        ((torch.float32, torch.float32), "ieee"),
        ((torch.float32, torch.float32), "tf32"),
        ((torch.bfloat16, torch.bfloat16), "ieee"),
        ((torch.float16, torch.float32), "ieee"),
    ],
)
@pytest.mark.parametrize(
    ("batch", "positions", "d", "latents", "n"),
    [
        (1, 1, 1, 1, 1),
        (3, 7, 65, 63, 300),
        (65, 5, 5, 40, 65),
        (2, 60, 3, 5, 63),
        (17, 2, 33, 9, 7),
    ],
)
def test_exact_inputs_match_the_dense_products_bit_for_bit(
    device: torch.device,
    oracle: SimpleNamespace,
    batch: int,
    positions: int,
    d: int,
    latents: int,
    n: int,
    dtypes: tuple[torch.dtype, torch.dtype],
    precision: str,
) -> None:
    gradients, W_dec, *lists, activations = make(oracle, batch, positions, d, latents, n)
    arguments = (gradients.to(dtypes[0]), W_dec.to(dtypes[1]), *lists, activations)
    expected = reference.sampled_dot(*arguments, upcast=True)
    scores = sampled_dot(*(t.to(device) for t in arguments), precision=precision)
    assert scores.dtype == torch.float32
    assert scores.shape == (batch, n)
    assert torch.equal(scores.cpu().double(), expected)


def test_scores_follow_the_order_of_the_lists(
    device: torch.device, oracle: SimpleNamespace
) -> None:
    gradients, W_dec, *lists = (t.to(device) for t in make(oracle, 3, 7, 33, 63, 200))
    scores = sampled_dot(gradients, W_dec, *lists)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(5)).to(device)
    lists = [lists[0][order].int(), lists[1][order].int(), lists[2][order]]
    assert torch.equal(sampled_dot(gradients, W_dec, *lists), scores[:, order])


def test_normal_inputs_are_within_float32(device: torch.device, oracle: SimpleNamespace) -> None:
    _, _, *lists, _ = make(oracle, 5, 9, 3, 70, 200)
    gradients, W_dec = oracle.normal(5, 9, 300, seed=0), oracle.normal(70, 300, seed=1)
    scores = sampled_dot(*(t.to(device) for t in (gradients, W_dec, *lists))).cpu()
    expected = reference.sampled_dot(gradients, W_dec, *lists, upcast=True)
    assert (scores - expected).norm() / expected.norm() < 1e-6


def test_nan_stays_in_its_position(device: torch.device, oracle: SimpleNamespace) -> None:
    gradients, W_dec, *lists = make(oracle, 2, 7, 5, 63, 100)
    gradients[1, 3, 0] = torch.nan
    scores = sampled_dot(*(t.to(device) for t in (gradients, W_dec, *lists))).cpu()
    assert not scores[0].isnan().any()
    assert torch.equal(scores[1].isnan(), lists[0] == 3)


def test_a_position_of_many_entries_is_many_tiles(device: torch.device) -> None:
    # 5 entries at position 1, 1 at position 3, none at 0, 2 and 4.
    ascending = torch.tensor([1, 1, 1, 1, 1, 3], device=device).int()
    offsets, tile_offsets, tiles = dots._tiles(ascending, 5, 2)
    assert offsets.tolist() == [0, 0, 5, 5, 6, 6]
    assert tile_offsets.tolist() == [0, 0, 3, 3, 4, 4]
    # Room for 6 // 2 + 5 tiles; those past the fourth are at no position.
    assert tiles.tolist() == [1, 1, 1, 3, 5, 5, 5, 5]


def test_empty_lists_and_batches_are_allowed(device: torch.device, oracle: SimpleNamespace) -> None:
    for batch, n in ((0, 6), (3, 0)):
        arguments = [t.to(device) for t in make(oracle, batch, 3, 4, 5, n)]
        assert sampled_dot(*arguments).shape == (batch, n)


def test_wrong_arguments_are_refused(device: torch.device) -> None:
    gradients, W_dec = torch.ones(2, 3, 4, device=device), torch.ones(5, 4, device=device)
    lists = torch.zeros(6, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match="transpose it"):
        sampled_dot(gradients, W_dec.T, lists, lists)
    with pytest.raises(ValueError, match=r"latents \[5\]; wanted lists \[n\] of one length"):
        sampled_dot(gradients, W_dec, lists, lists[:5])
    with pytest.raises(ValueError, match=r"activations \[1\]"):
        sampled_dot(gradients, W_dec, lists, lists, torch.ones(1, device=device))
    with pytest.raises(ValueError, match=r"positions of torch\.float32"):
        sampled_dot(gradients, W_dec, lists.float(), lists)
    with pytest.raises(ValueError, match="got float64, wanted float32"):
        sampled_dot(gradients.double(), W_dec.double(), lists, lists)
    with pytest.raises(ValueError, match="precision 'fp8', wanted one of ieee, tf32"):
        sampled_dot(gradients, W_dec, lists, lists, precision="fp8")
    with pytest.raises(ValueError, match="wanted one device"):
        sampled_dot(gradients, W_dec.to("meta"), lists, lists)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "precision", "bound"),
    [
        (torch.float32, "ieee", 1e-5),
        (torch.float32, "tf32", 1e-3),
        (torch.bfloat16, "ieee", 1e-5),
        (torch.float16, "ieee", 1e-5),
    ],
)
@pytest.mark.parametrize("batch", [1, 100, 256])
def test_real_precision_at_size(
    cuda: torch.device, dtype: torch.dtype, precision: str, bound: float, batch: int
) -> None:
    generator = torch.Generator(cuda).manual_seed(0)
    gradients = torch.randn(batch, 50, 2304, device=cuda, generator=generator).to(dtype)
    W_dec = torch.randn(10_000, 2304, device=cuda, generator=generator).to(dtype)
    positions = torch.randint(50, (3000,), device=cuda, generator=generator)
    latents = torch.randint(10_000, (3000,), device=cuda, generator=generator)
    scores = sampled_dot(gradients, W_dec, positions, latents, precision=precision)
    again = sampled_dot(gradients, W_dec, positions, latents, precision=precision)
    assert torch.equal(scores, again)
    some = torch.arange(0, 3000, 37, device=cuda)
    left, right = gradients[:, positions[some]].double(), W_dec[latents[some]].double()
    expected = (left * right).sum(2)
    assert (scores[:, some] - expected).norm() / expected.norm() < bound
