"""TopK on the GPU path against a stable sort of float64 pre-activations."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels.gpu import best_rows, topk
from bathyscope_kernels.gpu import filter as filtering
from bathyscope_kernels.gpu.keys import unpack_entries
from bathyscope_kernels.gpu.topk import topk_encode


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several stages and several programs per row at sizes that the interpreter can do."""
    monkeypatch.setattr(topk, "_first_columns", lambda k: max(32, 2 * k))
    monkeypatch.setattr(filtering, "_BLOCK", 128)


def _encode(
    x: Tensor, W: Tensor, b: Tensor, k: int, device: torch.device, **options: object
) -> tuple[Tensor, Tensor, Tensor]:
    subset = options.pop("subset", None)
    if isinstance(subset, Tensor):
        options["subset"] = subset.to(device)
    out = topk_encode(x.to(device), W.to(device), b.to(device), k, **options)
    assert [t.dtype for t in out] == [torch.float32, torch.int32, torch.int32]
    return tuple(t.cpu() for t in out)


def _assert_equal(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(got[0].double(), wanted[0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(got[1].long(), wanted[1])
    assert torch.equal(got[2].long(), wanted[2])


@pytest.mark.parametrize("k", [1, 5, 16, 33])
@pytest.mark.parametrize(("rows", "latents"), [(1, 257), (3, 400)])
@pytest.mark.usefixtures("small", "poisoned")
def test_is_bit_exact_on_quantised_inputs(
    k: int, rows: int, latents: int, oracle: SimpleNamespace, device: torch.device
) -> None:
    x, W = oracle.eighths(rows, 16, seed=1), oracle.eighths(latents, 16, seed=2)
    b = oracle.eighths(latents, seed=3)
    _assert_equal(_encode(x, W, b, k, device), oracle.topk(x, W, b, k))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_takes_half_precision(
    dtype: torch.dtype, oracle: SimpleNamespace, device: torch.device
) -> None:
    x, W = oracle.eighths(2, 32, seed=4).to(dtype), oracle.eighths(1500, 32, seed=5).to(dtype)
    b = oracle.eighths(1500, seed=6)
    # The sizes of stages and programs that real calls have.
    _assert_equal(_encode(x, W, b, 7, device), oracle.topk(x, W, b, 7))


@pytest.mark.usefixtures("small", "poisoned")
def test_chosen_scores_are_the_largest_of_random_inputs(
    oracle: SimpleNamespace, device: torch.device
) -> None:
    x, W, b = (
        oracle.normal(5, 63, seed=7),
        oracle.normal(500, 63, seed=8),
        oracle.normal(500, seed=9),
    )
    values, indices, count = _encode(x, W, b, 16, device)
    wanted, _, wanted_count = oracle.topk(x, W, b, 16)
    # Float32 accumulation: eps = 4 * 2^-24 * sqrt(d) * |x| |w|.
    margin = 4 * 2**-24 * 63**0.5 * float(x.norm(dim=1).max() * W.norm(dim=1).max())
    assert (values.double() - wanted).abs().max() <= margin
    pre = x.double() @ W.double().T + b.double()
    assert (pre.gather(1, indices.long()) - values.double()).abs().max() <= margin
    assert torch.equal(count.long(), wanted_count)
    assert all(len(set(row.tolist())) == 16 for row in indices)


@pytest.mark.usefixtures("small", "poisoned")
def test_ascending_columns_overflow_and_are_selected_again(
    monkeypatch: pytest.MonkeyPatch, oracle: SimpleNamespace, device: torch.device
) -> None:
    monkeypatch.setattr(topk, "list_length", lambda k: 2 * k)
    runs = []
    real = topk._select

    def select_rows(scores: object, *arguments: object, staged: bool) -> bool:
        runs.append((scores.num_rows, staged))
        return real(scores, *arguments, staged=staged)

    monkeypatch.setattr(topk, "_select", select_rows)
    # Row 0 and 2 ascend, row 1 descends: only the former lose candidates.
    x = torch.tensor([[1.0, 0.0], [-1.0, 400.0], [2.0, 0.0]])
    W = torch.stack([torch.arange(400.0), torch.ones(400)], dim=1)
    b = torch.zeros(400)
    _assert_equal(_encode(x, W, b, 16, device), oracle.topk(x, W, b, 16))
    assert runs == [(3, True), (2, False)]


@pytest.mark.usefixtures("small", "poisoned")
def test_nan_counts_as_largest_and_closes_a_full_row(
    oracle: SimpleNamespace, device: torch.device
) -> None:
    x, W = oracle.eighths(4, 8, seed=10), oracle.eighths(300, 8, seed=11)
    b = oracle.eighths(300, seed=12)
    b[[7, 200, 299]] = torch.nan
    b[250] = torch.inf
    b[3] = -torch.inf
    x[1, 2] = torch.nan
    values, indices, count = _encode(x, W, b, 5, device)
    assert count.tolist() == [5, 5, 5, 5]
    # A row that is NaN everywhere: the first columns win.
    assert indices[1].tolist() == [0, 1, 2, 3, 4]
    assert bool(values[1].isnan().all())
    for row in (0, 2, 3):
        assert indices[row, :4].tolist() == [7, 200, 299, 250]
        assert bool(values[row, :3].isnan().all())
        pre = (x[row].double() @ W.double().T + b.double()).nan_to_num(-1.0, posinf=-1.0)
        assert float(values[row, 4]) == float(pre.max())
        assert int(indices[row, 4]) == int(pre.argmax())


@pytest.mark.usefixtures("small", "poisoned")
def test_slots_past_the_positive_scores_are_zero(device: torch.device) -> None:
    x = torch.tensor([[1.0], [-1.0], [0.0]])
    W = torch.zeros(100, 1)
    W[[90, 3, 41]] = torch.tensor([[2.0], [2.0], [-5.0]])
    values, indices, count = _encode(x, W, torch.full((100,), -0.0), 5, device)
    assert count.tolist() == [2, 1, 0]
    assert values.tolist() == [[2, 2, 0, 0, 0], [5, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert indices.tolist() == [[3, 90, 0, 0, 0], [41, 0, 0, 0, 0], [0, 0, 0, 0, 0]]


@pytest.mark.usefixtures("small", "poisoned")
def test_equal_latents_come_in_the_order_of_their_index(device: torch.device) -> None:
    got = _encode(torch.ones(2, 1), torch.ones(300, 1), torch.zeros(300), 33, device)
    assert got[1].tolist() == [list(range(33))] * 2


@pytest.mark.usefixtures("small", "poisoned")
def test_all_latents_can_be_kept(oracle: SimpleNamespace, device: torch.device) -> None:
    x, W, b = (
        oracle.eighths(2, 8, seed=13),
        oracle.eighths(63, 8, seed=14),
        oracle.eighths(63, seed=15),
    )
    _assert_equal(_encode(x, W, b, 63, device), oracle.topk(x, W, b, 63))


@pytest.mark.usefixtures("small", "poisoned")
def test_indices_are_positions_in_the_subset(oracle: SimpleNamespace, device: torch.device) -> None:
    x, W, b = (
        oracle.eighths(2, 8, seed=16),
        oracle.eighths(400, 8, seed=17),
        oracle.eighths(400, seed=18),
    )
    subset = torch.arange(1, 400, 3)
    got = _encode(x, W, b, 5, device, subset=subset)
    _assert_equal(got, oracle.topk(x, W[subset], b[subset], 5))


@pytest.mark.usefixtures("small", "poisoned")
def test_a_small_workspace_gives_the_same(oracle: SimpleNamespace, device: torch.device) -> None:
    x, W, b = (
        oracle.eighths(3, 8, seed=19),
        oracle.eighths(200, 8, seed=20),
        oracle.eighths(200, seed=21),
    )
    got = _encode(x.bfloat16(), W, b, 5, device, workspace_bytes=3000)
    _assert_equal(got, oracle.topk(x, W, b, 5))


@pytest.mark.usefixtures("poisoned")
def test_a_k_too_large_for_registers_is_selected_by_sorting(
    monkeypatch: pytest.MonkeyPatch, oracle: SimpleNamespace, device: torch.device
) -> None:
    monkeypatch.setattr(topk, "MAX_K", 4)
    x, W, b = (
        oracle.eighths(3, 8, seed=22),
        oracle.eighths(200, 8, seed=23),
        oracle.eighths(200, seed=24),
    )
    _assert_equal(_encode(x, W, b, 33, device), oracle.topk(x, W, b, 33))
    got = _encode(x, W, b, 33, device, workspace_bytes=20_000)
    _assert_equal(got, oracle.topk(x, W, b, 33))


@pytest.mark.usefixtures("small", "poisoned")
def test_a_long_result_is_put_in_order_by_sorting(
    monkeypatch: pytest.MonkeyPatch, oracle: SimpleNamespace, device: torch.device
) -> None:
    monkeypatch.setattr(best_rows, "_MAX_RANKED", 4)
    x, W, b = (
        oracle.eighths(3, 8, seed=25),
        oracle.eighths(90, 8, seed=26),
        oracle.eighths(90, seed=27),
    )
    b[40] = torch.nan
    got = _encode(x, W, b - 1, 33, device)
    monkeypatch.undo()
    wanted = _encode(x, W, b - 1, 33, device)
    assert bool((wanted[2] < 33).any())
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_no_rows_give_no_rows(device: torch.device) -> None:
    values, indices, count = _encode(torch.ones(0, 4), torch.ones(9, 4), torch.ones(9), 2, device)
    assert [list(t.shape) for t in (values, indices, count)] == [[0, 2], [0, 2], [0]]


def test_entries_keep_the_bits_of_a_score_and_its_column() -> None:
    entries = torch.tensor([(0x3FC00000 << 32) | 7, (-0x80000000 << 32) | 0x7FFFFFFE])
    scores, columns = unpack_entries(entries)
    assert scores.tolist() == [1.5, 0.0]
    assert bool(scores[1].signbit())
    assert columns.tolist() == [7, 0x7FFFFFFE]


def test_stages_double_and_a_short_last_one_is_joined() -> None:
    def sizes(columns: int) -> list[int]:
        return [stage.stop - stage.start for stage in topk._stages(columns, 100)]

    assert sizes(100) == [100]
    assert sizes(101) == [100, 1]
    assert sizes(210) == [100, 110]
    assert sizes(260) == [100, 100, 60]
    assert sizes(1000) == [100, 100, 200, 400, 200]
    assert sizes(990) == [100, 100, 200, 590]


@pytest.mark.parametrize("k", [0, 10])
def test_refuses_a_k_out_of_range(k: int, device: torch.device) -> None:
    with pytest.raises(ValueError, match=f"k = {k}, wanted 1 <= k <= 9"):
        _encode(torch.ones(1, 4), torch.ones(9, 4), torch.ones(9), k, device)


def test_refuses_what_does_not_fit_together(device: torch.device) -> None:
    with pytest.raises(ValueError, match="of one d"):
        _encode(torch.ones(1, 4), torch.ones(9, 5), torch.ones(9), 1, device)
    with pytest.raises(ValueError, match="one number per column"):
        _encode(torch.ones(1, 4), torch.ones(9, 4), torch.ones(8), 1, device)
    with pytest.raises(ValueError, match=r"a subset \[9\] of torch.bool"):
        _encode(
            torch.ones(1, 4), torch.ones(9, 4), torch.ones(9), 1, device, subset=torch.ones(9) > 0
        )
    with pytest.raises(ValueError, match="float64"):
        _encode(*(torch.ones(*s).double() for s in ((1, 4), (9, 4), (9,))), 1, device)


@pytest.mark.gpu
def test_repeats_give_the_same_bits(oracle: SimpleNamespace, cuda: torch.device) -> None:
    x, W = oracle.normal(1000, 256, seed=28), oracle.normal(24577, 256, seed=29)
    x, W, b = x.to(cuda).bfloat16(), W.to(cuda).bfloat16(), torch.zeros(24577, device=cuda)
    first = topk_encode(x, W, b, 33)
    for _ in range(20):
        assert all(map(torch.equal, first, topk_encode(x, W, b, 33)))


@pytest.mark.gpu
@pytest.mark.parametrize("order", ["random", "ascending"])
@pytest.mark.parametrize("k", [1, 64, 700, 4096])
def test_a_large_shape_is_bit_exact(
    order: str, k: int, oracle: SimpleNamespace, cuda: torch.device
) -> None:
    x, W = oracle.eighths(2000, 64, seed=30), oracle.eighths(70_001, 64, seed=31)
    b = torch.arange(70_001.0) / 8 if order == "ascending" else oracle.eighths(70_001, seed=32)
    x, W, b = x.to(cuda), W.to(cuda), b.to(cuda)
    values, indices, count = topk_encode(x.bfloat16(), W.bfloat16(), b, k)
    for rows in range(0, 2000, 500):
        wanted = oracle.topk(x[rows : rows + 500], W, b, k)
        assert torch.equal(values[rows : rows + 500].double(), wanted[0])
        assert torch.equal(indices[rows : rows + 500].long(), wanted[1])
        assert torch.equal(count[rows : rows + 500].long(), wanted[2])
