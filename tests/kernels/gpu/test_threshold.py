"""JumpReLU on the GPU path against a mask over float64 pre-activations."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels.gpu import filter as filtering
from bathyscope_kernels.gpu import threshold as thresholding
from bathyscope_kernels.gpu.threshold import threshold_encode

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, poisoned: object) -> None:
    monkeypatch.setattr(filtering, "_BLOCK", 64)
    monkeypatch.setattr(thresholding, "_BLOCK", 16)


def _inputs(oracle: SimpleNamespace, rows: int, latents: int, seed: int = 0) -> Inputs:
    return (
        oracle.eighths(rows, 8, seed=seed), oracle.eighths(latents, 8, seed=seed + 1),
        oracle.eighths(latents, seed=seed + 2),
        oracle.eighths(latents, seed=seed + 3, low=0, high=24),
    )  # fmt: skip


def _encode(inputs: Inputs, device: torch.device, **options: float) -> tuple[Tensor, ...]:
    out = threshold_encode(*(tensor.to(device) for tensor in inputs), **options)
    assert [t.dtype for t in out] == [torch.float32, torch.int32, torch.int64, torch.bool]
    return tuple(t.cpu() for t in out)


def _wanted(inputs: Inputs, bandwidth: float = 0.0) -> tuple[Tensor, ...]:
    x, W, b, theta = (tensor.double() for tensor in inputs)
    pre = x @ W.T + b
    kept = ~(pre <= theta - bandwidth / 2)
    active = ~(pre <= theta)
    offsets = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
    values = torch.where(active, pre, 0.0)
    return values[kept], kept.nonzero()[:, 1], offsets, active[kept]


def _assert_equal(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(got[0].double(), wanted[0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(got[1].long(), wanted[1])
    assert torch.equal(got[2], wanted[2])
    assert torch.equal(got[3], wanted[3])


@pytest.mark.parametrize("bandwidth", [0.0, 0.5])
@pytest.mark.parametrize(("rows", "latents"), [(1, 65), (4, 257)])
def test_is_bit_exact_on_quantised_inputs(
    rows: int, latents: int, bandwidth: float, oracle: SimpleNamespace, device: torch.device
) -> None:
    inputs = _inputs(oracle, rows, latents)
    wanted = _wanted(inputs, bandwidth)
    assert bandwidth == 0 or rows == 1 or bool((~wanted[3]).any())
    _assert_equal(_encode(inputs, device, bandwidth=bandwidth), wanted)


def test_chunks_are_joined_in_order(oracle: SimpleNamespace, device: torch.device) -> None:
    inputs = _inputs(oracle, 5, 200, seed=10)
    _assert_equal(_encode(inputs, device, workspace_bytes=5_000), _wanted(inputs))


def test_a_list_longer_than_the_room_is_done_again(
    monkeypatch: pytest.MonkeyPatch, oracle: SimpleNamespace, device: torch.device
) -> None:
    monkeypatch.setattr(thresholding, "_FIRST_CAPACITY", 4)
    inputs = _inputs(oracle, 3, 100, seed=20)
    assert int(_wanted(inputs)[2].diff().max()) > 4
    _assert_equal(_encode(inputs, device), _wanted(inputs))
    # Everything is above, so each list is as long as a row.
    everything = (*inputs[:3], torch.full((100,), -100.0))
    _assert_equal(_encode(everything, device, workspace_bytes=2_000), _wanted(everything))


def test_nan_is_kept_and_active(oracle: SimpleNamespace, device: torch.device) -> None:
    x, W, b, theta = _inputs(oracle, 3, 100, seed=30)
    b[[5, 99]] = torch.nan
    b[6] = -torch.inf
    theta[50] = torch.nan
    x[1, 0] = torch.nan
    got = _encode((x, W, b, theta), device)
    _assert_equal(got, _wanted((x, W, b, theta)))
    assert int(got[2][2] - got[2][1]) == 100


def test_rows_may_be_empty(oracle: SimpleNamespace, device: torch.device) -> None:
    x, W, b, _ = _inputs(oracle, 3, 70, seed=40)
    got = _encode((x, W, b, torch.full((70,), 1000.0)), device)
    assert [t.numel() for t in got] == [0, 0, 4, 0]
    assert got[2].tolist() == [0, 0, 0, 0]
    got = _encode((x[:0], W, b, b), device)
    assert got[2].tolist() == [0]
    got = _encode((x, W[:0], b[:0], b[:0]), device)
    assert got[2].tolist() == [0, 0, 0, 0]


def test_refuses_what_does_not_fit_together(device: torch.device) -> None:
    inputs = (torch.ones(1, 4), torch.ones(9, 4), torch.ones(9))
    with pytest.raises(ValueError, match="one number per latent"):
        _encode((*inputs, torch.ones(8)), device)
    with pytest.raises(ValueError, match=r"threshold torch\.float64"):
        _encode((*inputs, torch.ones(9).double()), device)
    with pytest.raises(ValueError, match="bandwidth = -1"):
        _encode((*inputs, torch.ones(9)), device, bandwidth=-1.0)


@pytest.mark.gpu
def test_a_large_shape_is_bit_exact(oracle: SimpleNamespace, cuda: torch.device) -> None:
    inputs = tuple(tensor.to(cuda) for tensor in _inputs(oracle, 3000, 20_001, seed=50))
    first = threshold_encode(*inputs, bandwidth=0.25)
    for got, wanted in zip(first, _wanted(inputs, 0.25), strict=True):
        assert torch.equal(got.double(), wanted.double())
    for _ in range(5):
        assert all(map(torch.equal, first, threshold_encode(*inputs, bandwidth=0.25)))
