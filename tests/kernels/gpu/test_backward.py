"""The sparse backward pass on the GPU kernels, and the lists it works on."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels.gpu import lists as lists_module
from bathyscope_kernels.gpu.backward import Backward, sparse_backward
from bathyscope_kernels.gpu.lists import Lists, rows_by_latent, segment_length

pytestmark = pytest.mark.usefixtures("poisoned")


class Case(SimpleNamespace):
    """A batch with unused slots: grad, x, values, indices, W_dec, W_enc, grad_values."""


def make(
    oracle: SimpleNamespace,
    rows: int,
    k: int,
    latents: int,
    d_out: int,
    d_in: int,
    hot: bool = False,
) -> Case:
    """Distinct indices per row; with `hot`, latent 1 is the first of every row."""
    values = oracle.eighths(rows, k, seed=0, low=0)
    indices = oracle.normal(rows, latents, seed=1).topk(k).indices
    if hot:
        indices = torch.where(indices == 1, indices[:, :1], indices)
        indices[:, 0] = 1
        values[:, 0] += 0.125
    return Case(
        values=values,
        indices=indices.masked_fill(values == 0, 0).to(torch.int32),
        grad=oracle.eighths(rows, d_out, seed=2),
        x=oracle.eighths(rows, d_in, seed=3),
        W_dec=oracle.eighths(latents, d_out, seed=4),
        W_enc=oracle.eighths(latents, d_in, seed=5),
        grad_values=oracle.eighths(rows, k, seed=6),
    )


def run(case: Case, device: torch.device, **options: object) -> Backward:
    on = {name: tensor.to(device) for name, tensor in vars(case).items()}
    found = sparse_backward(
        on["grad"], on["x"], on["values"], on["indices"], on["W_dec"],
        grad_values=on["grad_values"], need_pre=True, need_dx=True, W_enc=on["W_enc"], **options,
    )  # fmt: skip
    return Backward(*(None if tensor is None else tensor.cpu() for tensor in found))


def by_autograd(case: Case) -> dict[str, Tensor]:
    """Dense autograd in float64 of sum(x_hat * grad) + sum(values * grad_values).

    The pre-activations are made to be what the values are: x W_enc^T plus a constant.
    """
    W_dec = case.W_dec.double().requires_grad_()
    W_enc = case.W_enc.double().requires_grad_()
    x = case.x.double().requires_grad_()
    b_enc = torch.zeros(len(W_enc), dtype=torch.float64, requires_grad=True)
    indices = case.indices.long()
    pre = (x @ W_enc.T + b_enc).gather(1, indices)
    pre = pre - pre.detach() + case.values.double()
    acts = torch.relu(pre)
    x_hat = torch.zeros(len(x), len(W_dec), dtype=torch.float64).scatter_add(1, indices, acts)
    loss = ((x_hat @ W_dec) * case.grad.double()).sum()
    loss = loss + (acts * case.grad_values.double()).sum()
    gradients = torch.autograd.grad(loss, [W_dec, W_enc, b_enc, x, pre])
    return dict(zip(("W_dec", "W_enc", "b_enc", "dx", "pre"), gradients, strict=True))


def active(case: Case) -> Tensor:
    return torch.unique(case.indices[case.values != 0]).long()


def assert_exact(found: Backward, case: Case) -> None:
    expected, listed = by_autograd(case), active(case)
    assert torch.equal(found.latents, listed)
    for name in ("W_dec", "W_enc", "b_enc"):
        assert torch.equal(getattr(found, name).double(), expected[name][listed]), name
        outside = expected[name].clone()
        outside[listed] = 0
        assert not outside.any()
    assert found.dx is not None
    assert found.pre is not None
    assert torch.equal(found.dx.double(), expected["dx"])
    assert torch.equal(found.pre.double(), expected["pre"])


def test_a_hand_worked_gradient(device: torch.device) -> None:
    grad = torch.tensor([[1.0, 2.0], [3.0, 5.0]], device=device)
    x = torch.tensor([[1.0], [10.0]], device=device)
    values = torch.tensor([[2.0, 0.0], [1.0, 4.0]], device=device)
    indices = torch.tensor([[2, 0], [2, 1]], device=device)
    W_dec = torch.tensor([[9.0, 9.0], [1.0, -1.0], [2.0, 1.0]], device=device)
    found = sparse_backward(grad, x, values, indices, W_dec)
    # g of latent 2 is 1*2 + 2*1 = 4 in row 0 and 3*2 + 5*1 = 11 in row 1; of latent 1 it is -2.
    assert found.latents.tolist() == [1, 2]
    assert found.W_dec.tolist() == [[12, 20], [2 + 3, 4 + 5]]
    assert found.W_enc.tolist() == [[-20], [4 + 110]]
    assert found.b_enc.tolist() == [-2, 15]
    assert found.pre is None
    assert found.dx is None


@pytest.mark.parametrize(
    ("rows", "k", "latents", "d_out", "d_in"),
    [
        (1, 1, 1, 1, 1),
        (9, 3, 20, 65, 65),
        (63, 1, 12, 33, 7),
        (6, 4, 9, 700, 5),
        (2, 2, 63, 5, 600),
    ],
)
def test_every_gradient_matches_dense_autograd_bit_for_bit(
    device: torch.device,
    oracle: SimpleNamespace,
    rows: int,
    k: int,
    latents: int,
    d_out: int,
    d_in: int,
) -> None:
    case = make(oracle, rows, k, latents, d_out, d_in)
    assert_exact(run(case, device), case)


@pytest.mark.parametrize(("least", "rows"), [(128, 140), (8, 50)])
def test_a_latent_of_every_row_is_summed_in_segments(
    device: torch.device,
    oracle: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    least: int,
    rows: int,
) -> None:
    monkeypatch.setattr(lists_module, "MIN_SEGMENT", least)
    case = make(oracle, rows, 2, 6, 17, 9, hot=True)
    found = run(case, device)
    assert_exact(found, case)
    again = run(case, device)
    for ours, theirs in zip(found, again, strict=True):
        assert torch.equal(ours, theirs)


def test_normal_inputs_are_within_float32(device: torch.device, oracle: SimpleNamespace) -> None:
    case = make(oracle, 40, 3, 5, 40, 30, hot=True)
    case.grad, case.x = oracle.normal(40, 40, seed=7), oracle.normal(40, 30, seed=8)
    case.W_dec, case.W_enc = oracle.normal(5, 40, seed=9), oracle.normal(5, 30, seed=10)
    found, expected = run(case, device), by_autograd(case)
    for name in ("W_dec", "W_enc", "b_enc"):
        wanted = expected[name][found.latents]
        assert (getattr(found, name) - wanted).norm() / wanted.norm() < 1e-6
    assert found.dx is not None
    assert (found.dx - expected["dx"]).norm() / expected["dx"].norm() < 1e-6


def test_nan_counts_as_active_and_reaches_its_latent_alone(
    device: torch.device, oracle: SimpleNamespace
) -> None:
    case = make(oracle, 5, 2, 8, 6, 6)
    case.values = torch.ones(5, 2)
    case.indices = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7], [0, 2]]).int()
    case.values[1, 0] = torch.nan
    found = run(case, device)
    assert found.latents.tolist() == list(range(8))
    assert found.W_dec[2].isnan().all()
    assert not found.W_dec[torch.arange(8) != 2].isnan().any()
    # The gradient of a value does not depend on the value.
    assert not found.W_enc.isnan().any()


def test_unused_slots_reach_nothing(device: torch.device, oracle: SimpleNamespace) -> None:
    case = make(oracle, 4, 3, 5, 6, 6)
    case.values[:, 1:] = 0
    case.values[:, 0] = 1
    case.indices[:, 1:] = 0
    case.indices[:, 0] = 3
    case.W_dec[0], case.W_enc[0] = torch.nan, torch.inf
    case.grad_values[:, 1:] = torch.nan
    found = run(case, device)
    assert found.latents.tolist() == [3]
    assert all(t is not None and t.isfinite().all() for t in found)


def test_latents_that_are_always_listed_have_zeros(
    device: torch.device, oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists_module, "MIN_SEGMENT", 8)
    case = make(oracle, 30, 2, 30, 9, 11, hot=True)
    case.indices[case.indices > 20] = 20
    always = torch.zeros(30, dtype=torch.bool)
    always[[0, 1, 25, 29]] = True
    found, plain = run(case, device, always=always.to(device)), run(case, device)
    assert found.latents.tolist() == sorted({*plain.latents.tolist(), 0, 25, 29})
    added = torch.isin(found.latents, plain.latents, invert=True)
    assert {25, 29} <= set(found.latents[added].tolist())
    for name in ("W_dec", "W_enc", "b_enc"):
        rows = getattr(found, name)
        assert not rows[added].any()
        assert torch.equal(rows[~added], getattr(plain, name))


def test_gradients_come_in_the_dtype_of_the_decoder(
    device: torch.device, oracle: SimpleNamespace
) -> None:
    case = make(oracle, 9, 3, 20, 16, 16)
    for name in ("grad", "x", "W_dec", "W_enc"):
        setattr(case, name, getattr(case, name).to(torch.bfloat16))
    assert_exact(run(case, device, out_dtype=torch.float32), case)
    found, expected = run(case, device), by_autograd(case)
    assert found.W_dec.dtype == found.W_enc.dtype == found.b_enc.dtype == torch.bfloat16
    wanted = expected["W_dec"][found.latents]
    # The interpreter cuts bits off where the GPU rounds.
    torch.testing.assert_close(found.W_dec.double(), wanted, rtol=2**-7, atol=0)


def test_empty_batches_have_no_gradients(device: torch.device, oracle: SimpleNamespace) -> None:
    case = make(oracle, 3, 2, 5, 4, 6)
    for name in ("grad", "x", "values", "indices", "grad_values"):
        setattr(case, name, getattr(case, name)[:0])
    found = run(case, device)
    assert [t.shape for t in found[:4]] == [(0,), (0, 4), (0, 6), (0,)]
    case = make(oracle, 3, 2, 5, 4, 6)
    case.values.zero_()
    found = run(case, device)
    assert found.latents.numel() == 0
    assert found.dx is not None
    assert not found.dx.any()


def test_lists_by_hand(device: torch.device) -> None:
    values = torch.tensor([[1.0, 2.0], [0.0, 3.0], [torch.nan, -4.0], [5.0, 6.0]], device=device)
    indices = torch.tensor([[7, 3], [3, 7], [7, 7], [7, 5]], device=device)
    lists = rows_by_latent(values, indices, 8, length=2)
    assert lists.latents.tolist() == [3, 5, 7]
    assert lists.offsets.tolist() == [0, 1, 2, 7]
    assert lists.places.tolist() == [1, 7, 0, 3, 4, 5, 6]
    assert lists.rows.tolist() == [0, 3, 0, 1, 2, 2, 3]
    assert str(lists.coefficients.tolist()) == "[2.0, 6.0, 1.0, 3.0, nan, -4.0, 5.0]"
    segments = lists.segments
    assert segments.starts.tolist() == [0, 1, 2, 4, 6, 7]
    assert segments.owners.tolist() == [0, 1, 2, 2, 2]
    assert segments.partials.tolist() == [-1, -1, 0, 1, 2]
    assert segments.num_partials == 3
    assert segments.split.tolist() == [2]
    assert segments.split_offsets.tolist() == [0, 3]


@pytest.mark.parametrize("length", [1, 2, 3, 128])
@pytest.mark.parametrize(
    ("rows", "k", "latents"), [(65, 3, 7), (1, 1, 1), (63, 1, 3), (0, 4, 9), (4, 0, 9)]
)
def test_lists_match_a_plain_loop(
    device: torch.device, oracle: SimpleNamespace, rows: int, k: int, latents: int, length: int
) -> None:
    values = oracle.eighths(rows, k, seed=0, low=-1, high=3)
    indices = torch.randint(latents, (rows, k), generator=torch.Generator().manual_seed(0))
    lists = rows_by_latent(values.to(device), indices.to(device), latents, length=length)
    check_lists(lists, values, indices, length)


def check_lists(lists: Lists, values: Tensor, indices: Tensor, length: int) -> None:
    flat, of = values.flatten().tolist(), indices.flatten().tolist()
    expected = sorted((of[p], p) for p in range(len(flat)) if flat[p] != 0)
    assert lists.places.tolist() == [p for _, p in expected]
    assert lists.latents.tolist() == sorted({latent for latent, _ in expected})
    found, segments = [], lists.segments
    starts = segments.starts.tolist()
    for owner, start, stop in zip(segments.owners.tolist(), starts, starts[1:], strict=False):
        assert 1 <= stop - start <= length
        found += [(lists.latents[owner].item(), p) for p in lists.places[start:stop].tolist()]
    assert found == expected
    several = torch.bincount(segments.owners, minlength=1) > 1
    assert segments.split.tolist() == several.nonzero().squeeze(1).tolist()
    partial = segments.partials[segments.partials >= 0].tolist()
    assert partial == list(range(segments.num_partials))
    ends = segments.split_offsets.tolist()
    for owner, first, last in zip(segments.split.tolist(), ends, ends[1:], strict=False):
        assert segments.partials[segments.owners == owner].tolist() == list(range(first, last))


def test_segments_are_longer_where_their_sums_would_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert segment_length(8192 * 32, 768) == 128
    # At 524288 entries of 4096 columns there are 2 * 524288 / 256 sums at most: 67 MB.
    assert segment_length(8192 * 64, 4096) == 256
    assert segment_length(0, 5) == 128
    monkeypatch.setattr(lists_module, "_PARTIAL_BYTES", 1000)
    assert segment_length(130, 1) == 128
    assert segment_length(100_000, 1) == 896


def test_wrong_arguments_are_refused(device: torch.device, oracle: SimpleNamespace) -> None:
    case = make(oracle, 3, 2, 5, 4, 6)
    g, x, values, indices, W_dec, W_enc = (
        getattr(case, name).to(device)
        for name in ("grad", "x", "values", "indices", "W_dec", "W_enc")
    )
    with pytest.raises(ValueError, match=r"grad_x_hat \[3, 6\], wanted \[3, 4\].*transpose them"):
        sparse_backward(x, x, values, indices, W_dec)
    with pytest.raises(ValueError, match=r"x \[2, 6\].*indices \[3, 2\]; wanted values"):
        sparse_backward(g, x[:2], values, indices, W_dec)
    with pytest.raises(ValueError, match=r"grad_values \[3, 4\], wanted \[3, 2\]"):
        sparse_backward(g, x, values, indices, W_dec, grad_values=g)
    with pytest.raises(ValueError, match=r"always \[3\] of torch\.float32, wanted \[5\]"):
        sparse_backward(g, x, values, indices, W_dec, always=g[:, 0])
    with pytest.raises(ValueError, match="need_dx without W_enc"):
        sparse_backward(g, x, values, indices, W_dec, need_dx=True)
    with pytest.raises(ValueError, match=r"W_enc \[5, 4\], wanted \[5, 6\]"):
        sparse_backward(g, x, values, indices, W_dec, need_dx=True, W_enc=W_dec)
    with pytest.raises(ValueError, match=r"indices of torch\.float32"):
        sparse_backward(g, x, values, values, W_dec)
    with pytest.raises(ValueError, match="got float64"):
        sparse_backward(*(t.double() for t in (g, x, values)), indices, W_dec.double())
    with pytest.raises(ValueError, match="wanted one device"):
        sparse_backward(g, x, values, indices, W_dec.to("meta"))
    assert W_enc.shape == (5, 6)


@pytest.mark.gpu
def test_the_same_inputs_give_the_same_bits_at_size(
    cuda: torch.device, poisoned: Callable[..., Tensor]
) -> None:
    rows, k, latents, d = 8192, 32, 24576, 768
    generator = torch.Generator(cuda).manual_seed(0)
    values = torch.rand(rows, k, device=cuda, generator=generator)
    indices = torch.randint(latents, (rows, k), device=cuda, generator=generator).int()
    indices[:, 0] = 7
    grad, x = (torch.randn(rows, d, device=cuda, generator=generator) for _ in range(2))
    W_dec, W_enc = (torch.randn(latents, d, device=cuda, generator=generator) for _ in range(2))
    options = {"need_dx": True, "W_enc": W_enc}
    first = sparse_backward(grad, x, values, indices, W_dec, **options)
    for _ in range(3):
        again = sparse_backward(grad, x, values, indices, W_dec, **options)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    dense = torch.zeros(rows, latents, device=cuda).scatter_add_(1, indices.long(), values)
    expected = (dense.T.double() @ grad.double())[first.latents]
    assert (first.W_dec - expected).norm() / expected.norm() < 1e-5
    dense = torch.zeros(rows, latents, device=cuda).scatter_add_(1, indices.long(), first.pre)
    expected = (dense.T.double() @ x.double())[first.latents]
    assert (first.W_enc - expected).norm() / expected.norm() < 1e-5
