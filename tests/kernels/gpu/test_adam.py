"""Row-sparse Adam on the GPU kernel: equal to torch.optim.Adam with the dense gradient."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels.gpu import adam
from bathyscope_kernels.gpu.adam import sparse_adam

OPTIONS = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6}


def gradients(oracle: SimpleNamespace, rows: int, d: int) -> list[tuple[Tensor, Tensor]]:
    """Some rows and their gradients for each step; one step has none, one has all."""
    found = []
    for step, size in enumerate(((rows + 1) // 2, 0, rows, (rows + 2) // 3)):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(step))
        found.append((order[:size].sort().values, oracle.normal(size, d, seed=step)))
    return found


def dense(rows: Tensor, values: Tensor, num_rows: int) -> Tensor:
    return values.new_zeros(num_rows, values.shape[1]).index_copy(0, rows, values)


def fresh(start: Tensor, device: torch.device) -> list[Tensor]:
    return [start.clone().to(device), *(torch.zeros_like(start, device=device) for _ in range(2))]


@pytest.mark.parametrize(("rows", "d"), [(1, 1), (65, 63), (200, 16), (7, 1000), (3, 1025)])
def test_every_row_moves_as_with_a_dense_gradient(
    device: torch.device, oracle: SimpleNamespace, rows: int, d: int
) -> None:
    start = oracle.normal(rows, d, seed=9)
    state = fresh(start, device)
    theirs = torch.nn.Parameter(start.double())
    other = torch.optim.Adam([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-6)
    for step, (listed, values) in enumerate(gradients(oracle, rows, d), start=1):
        sparse_adam(*state, listed.to(device), values.to(device), step=step, **OPTIONS)
        theirs.grad = dense(listed, values, rows).double()
        other.step()
    expected = [theirs.detach(), *(other.state[theirs][n] for n in ("exp_avg", "exp_avg_sq"))]
    for ours, wanted in zip(state, expected, strict=True):
        torch.testing.assert_close(ours.cpu().double(), wanted, rtol=2e-6, atol=1e-7)


def test_a_hand_worked_step(device: torch.device) -> None:
    state = fresh(torch.zeros(3, 2), device)
    options = {"lr": 0.5, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    gradient = torch.tensor([[4.0, -2.0]], device=device)
    sparse_adam(*state, torch.tensor([1], device=device), gradient, step=1, **options)
    # The first step moves by lr against the sign of the gradient.
    torch.testing.assert_close(state[0][1].cpu(), torch.tensor([-0.5, 0.5]))
    torch.testing.assert_close(state[1][1].cpu(), torch.tensor([0.4, -0.2]))
    torch.testing.assert_close(state[2][1].cpu(), torch.tensor([0.016, 0.004]))
    assert not state[0][[0, 2]].any()


def test_without_eps_the_end_of_a_row_is_no_zero_to_divide(device: torch.device) -> None:
    state = fresh(torch.ones(1, 3), device)
    rows, ones = torch.tensor([0], device=device), torch.ones(1, 3, device=device)
    options = OPTIONS | {"lr": 0.25, "eps": 0.0}
    sparse_adam(*state, rows, ones, step=1, normalize=True, **options)
    torch.testing.assert_close(state[0].cpu(), torch.full((1, 3), 3**-0.5))


def test_lazy_leaves_rows_without_a_gradient_alone(device: torch.device) -> None:
    state = fresh(torch.ones(5, 3), device)
    rows, ones = torch.tensor([1, 2], device=device), torch.ones(2, 3, device=device)
    sparse_adam(*state, rows, ones, step=1, lazy=True, **(OPTIONS | {"lr": 0.1}))
    sparse_adam(*state, rows[1:], ones[1:], step=2, lazy=True, **(OPTIONS | {"lr": 0.1}))
    sparse_adam(*state, rows[:0], ones[:0], step=3, lazy=True, **(OPTIONS | {"lr": 0.1}))
    assert torch.equal(state[0][[0, 3, 4]].cpu(), torch.ones(3, 3))
    # By hand: gradients of one sign and size move by lr a step.
    torch.testing.assert_close(state[0][1].cpu(), torch.full((3,), 0.9))
    torch.testing.assert_close(state[0][2].cpu(), torch.full((3,), 0.8))
    assert not state[1][0].any()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("at_once", [True, False])
def test_unit_rows_are_unit_after_the_step_and_zeros_stay(
    device: torch.device,
    oracle: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    at_once: bool,
    lazy: bool,
) -> None:
    if not at_once:
        monkeypatch.setattr(adam, "_MAX_ROW", 8)
    start = oracle.normal(40, 19, seed=0)
    start[4] = 0
    listed, values = torch.tensor([0, 7, 39]), oracle.normal(3, 19, seed=1)
    theirs = torch.nn.Parameter(start.clone())
    theirs.grad = dense(listed, values, 40)
    torch.optim.Adam([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-6).step()
    state = fresh(start, device)
    on = (listed.to(device), values.to(device))
    sparse_adam(*state, *on, step=1, normalize=True, lazy=lazy, **OPTIONS)
    wanted = torch.nn.functional.normalize(theirs.detach(), dim=1)
    if lazy:
        rest = torch.ones(40, dtype=torch.bool)
        rest[listed] = False
        wanted[rest] = start[rest]
    torch.testing.assert_close(state[0].cpu(), wanted, rtol=1e-6, atol=1e-7)
    assert not state[0][4].any()


def test_nan_stays_in_its_element_and_short_gradients_are_taken(
    device: torch.device, oracle: SimpleNamespace
) -> None:
    start, values = oracle.normal(6, 33, seed=0), oracle.eighths(2, 33, seed=1)
    listed = torch.tensor([2, 5])
    exact, short = fresh(start, device), fresh(start, device)
    sparse_adam(*exact, listed.to(device), values.to(device), step=1, **OPTIONS)
    sparse_adam(*short, listed.to(device), values.to(device).bfloat16(), step=1, **OPTIONS)
    for ours, theirs in zip(short, exact, strict=True):
        assert torch.equal(ours, theirs)
    values[1, 32] = torch.nan
    broken = fresh(start, device)
    sparse_adam(*broken, listed.to(device), values.to(device), step=1, **OPTIONS)
    for ours, theirs in zip(broken, exact, strict=True):
        assert ours[5, 32].isnan()
        ours[5, 32] = theirs[5, 32]
        assert torch.equal(ours, theirs)


def test_nothing_beside_the_rows_is_written(device: torch.device, oracle: SimpleNamespace) -> None:
    guarded = [torch.full((4, 35), torch.nan, device=device) for _ in range(3)]
    state = [whole.view(-1)[35:105].view(2, 35) for whole in guarded]
    for tensor in state:
        tensor.zero_()
    rows = torch.tensor([1], device=device)
    sparse_adam(*state, rows, torch.ones(1, 35, device=device), step=1, normalize=True, **OPTIONS)
    for whole in guarded:
        assert whole[[0, 3]].isnan().all()
        assert whole[1:3].isfinite().all()


def test_empty_parameters_are_allowed(device: torch.device) -> None:
    state = fresh(torch.zeros(0, 3), device)
    none = torch.zeros(0, dtype=torch.int64, device=device)
    sparse_adam(*state, none, torch.zeros(0, 3, device=device), step=1, **OPTIONS)
    assert all(tensor.shape == (0, 3) for tensor in state)


def test_wrong_arguments_are_refused(device: torch.device) -> None:
    state = fresh(torch.zeros(4, 3), device)
    rows, gradient = torch.tensor([1], device=device), torch.zeros(1, 3, device=device)
    with pytest.raises(ValueError, match=r"exp_avg_sq \[3, 4\] with parameter \[4, 3\]"):
        sparse_adam(*state[:2], state[2].T, rows, gradient, step=1, **OPTIONS)
    with pytest.raises(ValueError, match=r"exp_avg of torch\.float64"):
        sparse_adam(state[0], state[1].double(), state[2], rows, gradient, step=1, **OPTIONS)
    strided = torch.zeros(3, 4, device=device).T
    with pytest.raises(ValueError, match=r"parameter of torch\.float32 with strides \(1, 4\)"):
        sparse_adam(strided, *state[1:], rows, gradient, step=1, **OPTIONS)
    with pytest.raises(ValueError, match=r"rows \[1\] of torch\.int32"):
        sparse_adam(*state, rows.int(), gradient, step=1, **OPTIONS)
    with pytest.raises(ValueError, match=r"gradient \[1, 2\]; wanted rows"):
        sparse_adam(*state, rows, gradient[:, :2], step=1, **OPTIONS)
    with pytest.raises(ValueError, match=r"a gradient of torch\.float64"):
        sparse_adam(*state, rows, gradient.double(), step=1, **OPTIONS)
    with pytest.raises(ValueError, match="got step 0"):
        sparse_adam(*state, rows, gradient, step=0, **OPTIONS)
    with pytest.raises(ValueError, match="wanted one device"):
        sparse_adam(*state, rows, gradient.to("meta"), step=1, **OPTIONS)


@pytest.mark.gpu
def test_long_rows_at_size(cuda: torch.device, oracle: SimpleNamespace) -> None:
    for d in (768, 4096, 8192, 20_000):
        start = torch.randn(2000, d, device=cuda)
        state = fresh(start, cuda)
        listed = torch.arange(0, 2000, 3, device=cuda)
        values = torch.randn(listed.numel(), d, device=cuda)
        sparse_adam(*state, listed, values, step=1, normalize=True, **OPTIONS)
        theirs = torch.nn.Parameter(start.double())
        theirs.grad = dense(listed, values, 2000).double()
        torch.optim.Adam([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-6).step()
        wanted = torch.nn.functional.normalize(theirs.detach(), dim=1)
        torch.testing.assert_close(state[0].double(), wanted, rtol=1e-5, atol=1e-8)
