"""Sparse decode and its residual on the GPU kernels: exact sums, unused slots, slices, refusals."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels import reference
from bathyscope_kernels.gpu import decode
from bathyscope_kernels.gpu.decode import decode_residual, slice_columns, sparse_decode

pytestmark = pytest.mark.usefixtures("poisoned")


def make(
    oracle: SimpleNamespace, rows: int, k: int, latents: int, d: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values with unused slots, indices, a decoder and a bias, whose sums are exact in float32."""
    values = oracle.eighths(rows, k, seed=0, low=0)
    indices = torch.randint(latents, (rows, k), generator=torch.Generator().manual_seed(1))
    indices = indices.masked_fill(values == 0, 0).to(torch.int32)
    return values, indices, oracle.eighths(latents, d, seed=2), oracle.eighths(d, seed=3)


def test_a_hand_worked_sum(device: torch.device) -> None:
    W_dec = torch.tensor([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]], device=device)
    values = torch.tensor([[2.0, 3.0], [0.5, 0.0]], device=device)
    indices = torch.tensor([[1, 0], [0, 0]], dtype=torch.int32, device=device)
    assert sparse_decode(values, indices, W_dec).tolist() == [[7, 70, 700], [0.5, 5, 50]]
    bias, target = torch.tensor([1.0, 0.0, -1.0], device=device), torch.ones(2, 3, device=device)
    residual, squares = decode_residual(values, indices, W_dec, bias, target)
    assert residual.tolist() == [[-7, -69, -698], [-0.5, -4, -48]]
    assert squares.tolist() == [49 + 69**2 + 698**2, 0.25 + 16 + 48**2]


@pytest.mark.parametrize(
    ("rows", "k", "latents", "d"),
    [(1, 1, 1, 1), (7, 5, 63, 65), (63, 3, 24, 16), (5, 33, 1000, 300), (3, 1, 65, 1000)],
)
def test_exact_inputs_match_the_dense_product_bit_for_bit(
    device: torch.device, oracle: SimpleNamespace, rows: int, k: int, latents: int, d: int
) -> None:
    values, indices, W_dec, b_dec = make(oracle, rows, k, latents, d)
    target = oracle.eighths(rows, d, seed=4)
    on = [tensor.to(device) for tensor in (values, indices, W_dec, b_dec, target)]
    x_hat = sparse_decode(*on[:3])
    assert x_hat.dtype == torch.float32
    assert torch.equal(x_hat.cpu().double(), oracle.decode(values, indices, W_dec))
    expected = reference.sparse_decode(values, indices, W_dec, b_dec, upcast=True)
    assert torch.equal(sparse_decode(*on[:4]).cpu().double(), expected)
    assert torch.equal(sparse_decode(on[0], on[1].long(), *on[2:4]).cpu().double(), expected)
    residual, squares = decode_residual(*on)
    assert torch.equal(residual.cpu().double(), target.double() - expected)
    assert torch.equal(squares.cpu().double(), (target.double() - expected).square().sum(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_dtypes_are_summed_in_float32(
    device: torch.device, oracle: SimpleNamespace, dtype: torch.dtype
) -> None:
    values, indices, W_dec, b_dec = make(oracle, 7, 9, 63, 65)
    short = [tensor.to(dtype) for tensor in (W_dec, b_dec)]
    x_hat = sparse_decode(*(t.to(device) for t in (values, indices, *short)))
    assert x_hat.dtype == torch.float32
    expected = reference.sparse_decode(values, indices, *short, upcast=True)
    assert torch.equal(x_hat.cpu().double(), expected)
    x_hat = sparse_decode(*(t.to(device) for t in (values.to(dtype), indices, *short)))
    assert torch.equal(x_hat.cpu().double(), expected)


def test_normal_inputs_are_within_float32(device: torch.device, oracle: SimpleNamespace) -> None:
    _, indices, _, _ = make(oracle, 20, 16, 100, 70)
    values, W_dec = oracle.normal(20, 16, seed=0), oracle.normal(100, 70, seed=1)
    x_hat = sparse_decode(values.to(device), indices.to(device), W_dec.to(device)).cpu()
    expected = oracle.decode(values, indices, W_dec)
    assert (x_hat - expected).norm() / expected.norm() < 1e-6


def test_unused_slots_take_nothing_from_row_zero_and_nan_stays_in_its_row(
    device: torch.device,
) -> None:
    W_dec = torch.tensor([[torch.inf, torch.nan], [1.0, 2.0]], device=device)
    values = torch.tensor([[3.0, 0.0], [0.0, 0.0], [torch.nan, 0.0]], device=device)
    indices = torch.tensor([[1, 0], [0, 0], [1, 0]], dtype=torch.int32, device=device)
    x_hat = sparse_decode(values, indices, W_dec)
    assert x_hat[:2].tolist() == [[3, 6], [0, 0]]
    assert x_hat[2].isnan().all()


def test_an_index_that_comes_twice_counts_twice(device: torch.device) -> None:
    values, indices = torch.tensor([[2.0, 3.0]]), torch.tensor([[1, 1]])
    x_hat = sparse_decode(values.to(device), indices.to(device), torch.eye(2).to(device))
    assert x_hat.tolist() == [[0, 5]]


def test_rows_without_slots_hold_the_bias_and_no_rows_are_allowed(device: torch.device) -> None:
    W_dec, b_dec = torch.ones(4, 3, device=device), torch.tensor([1.0, 2.0, 3.0], device=device)
    none = torch.zeros(2, 0, device=device)
    assert sparse_decode(none, none.int(), W_dec, b_dec).tolist() == [[1, 2, 3]] * 2
    residual, squares = decode_residual(none.T, none.T.int(), W_dec, b_dec, none.new_zeros(0, 3))
    assert (residual.shape, squares.shape) == ((0, 3), (0,))


def test_a_strided_decoder_is_read_right(device: torch.device, oracle: SimpleNamespace) -> None:
    values, indices, W_dec, _ = make(oracle, 5, 3, 20, 17)
    strided = W_dec.T.contiguous().to(device).T
    x_hat = sparse_decode(values.to(device), indices.to(device), strided)
    assert torch.equal(x_hat.cpu().double(), oracle.decode(values, indices, W_dec))


def test_slices_of_large_decoders_fit_the_cache() -> None:
    def of(latents: int, d: int, dtype: torch.dtype) -> int:
        return slice_columns(torch.empty(latents, d, dtype=dtype, device="meta"))

    # 24576 * 512 * 2 bytes are 25 MB, 131072 * 128 * 2 are 33.5 MB = 32 MiB.
    assert of(24576, 768, torch.bfloat16) == 512
    assert of(24576, 768, torch.float32) == 256
    assert of(131072, 4096, torch.bfloat16) == 128
    # None fits.
    assert of(1048576, 8192, torch.bfloat16) == 512
    assert of(1000, 65, torch.float32) == 128
    assert of(1000, 1, torch.float32) == 16


def test_narrow_slices_give_the_same_bits(
    device: torch.device, oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, indices, _, _ = make(oracle, 5, 6, 40, 1)
    W_dec, target = oracle.normal(40, 300, seed=0).to(device), oracle.normal(5, 300, seed=1)
    arguments = (values.to(device), indices.to(device), W_dec, None, target.to(device))
    wide = decode_residual(*arguments)
    monkeypatch.setattr(decode, "_SLICE_BYTES", 40 * 128 * 4)
    assert slice_columns(W_dec) == 128
    narrow = decode_residual(*arguments)
    assert torch.equal(narrow[0], wide[0])
    # 300 squares, added in another order.
    torch.testing.assert_close(narrow[1], wide[1], rtol=1e-6, atol=0)


def test_wrong_arguments_are_refused(device: torch.device) -> None:
    values, indices = torch.ones(2, 3, device=device), torch.zeros(2, 3, device=device).int()
    W_dec = torch.ones(5, 4, device=device)
    with pytest.raises(ValueError, match=r"indices \[2, 2\]"):
        sparse_decode(values, indices[:, :2], W_dec)
    with pytest.raises(ValueError, match=r"b_dec \[5\], wanted \[4\].*transpose it"):
        sparse_decode(values, indices, W_dec, W_dec[:, 0])
    with pytest.raises(ValueError, match=r"target \[2, 3\], wanted \[2, 4\]"):
        decode_residual(values, indices, W_dec, None, values)
    with pytest.raises(ValueError, match=r"indices of torch\.float32"):
        sparse_decode(values, values, W_dec)
    with pytest.raises(ValueError, match="got float64, wanted float32"):
        sparse_decode(values.double(), indices, W_dec.double())
    with pytest.raises(ValueError, match="wanted one device"):
        sparse_decode(values, indices, W_dec.to("meta"))


@pytest.mark.gpu
def test_the_same_inputs_give_the_same_bits_at_size(
    cuda: torch.device, oracle: SimpleNamespace, poisoned: Callable[..., Tensor]
) -> None:
    rows, k, latents, d = 8192, 64, 131072, 4096
    generator = torch.Generator(cuda).manual_seed(0)
    values = torch.rand(rows, k, device=cuda, generator=generator)
    indices = torch.randint(latents, (rows, k), device=cuda, generator=generator).int()
    W_dec = torch.randn(latents, d, device=cuda, generator=generator).bfloat16()
    first = sparse_decode(values, indices, W_dec)
    for _ in range(3):
        assert torch.equal(sparse_decode(values, indices, W_dec), first)
    some = torch.arange(0, rows, 1000, device=cuda)
    gathered = W_dec[indices[some].long()].double()
    expected = (values[some].double()[:, :, None] * gathered).sum(1)
    assert (first[some] - expected).norm() / expected.norm() < 1e-5
