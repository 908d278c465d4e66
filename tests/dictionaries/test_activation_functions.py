"""What each activation function keeps, worked by hand, and that its lists grow as they must."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bathyscope.dictionaries.activation_function import Active, level_of, padded
from bathyscope.dictionaries.batch_topk import BatchTopK
from bathyscope.dictionaries.gated import Gated
from bathyscope.dictionaries.jumprelu import JumpReLU
from bathyscope.dictionaries.kinds import ACTIVATIONS, make_activation
from bathyscope.dictionaries.peers import Alone
from bathyscope.dictionaries.relu import ReLU
from bathyscope.errors import ConfigError
from bathyscope_kernels import Ragged

EYE, ZERO = torch.eye(3), torch.zeros(3)
X = torch.tensor([[3.0, 1.0, 2.0], [0.5, -1.0, 0.0], [2.5, 2.5, 2.5]])


def kept(values: Tensor, indices: Tensor) -> list[list[tuple[int, float]]]:
    """(latent, value) of each row, in order, without empty slots."""
    return [
        [(i, v) for v, i in zip(row, places, strict=True) if v != 0]
        for row, places in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def rows_of(active: Active) -> list[list[tuple[int, float]]]:
    """(latent, value) of the entries of each row whose value is not 0, by latent."""
    entries = Ragged(active.values.detach(), *active[1:3])
    found = []
    for row in range(entries.num_rows):
        values, indices = entries.row(row)
        pairs = zip(indices.tolist(), values.tolist(), strict=True)
        found.append(sorted((i, v) for i, v in pairs if v != 0))
    return found


def test_topk() -> None:
    found = make_activation("topk", k=2, num_latents=3).encode(X, EYE, ZERO)
    assert kept(found.values, found.indices) == [[(0, 3), (2, 2)], [(0, 0.5)], [(0, 2.5), (1, 2.5)]]


def test_batch_topk_in_training_takes_the_largest_of_a_group() -> None:
    function = BatchTopK(1, 3, group_rows=2)
    active = function.active(X, EYE, ZERO, None, Alone())
    # Rows 0 and 1 share two, both of row 0; row 2 is a group of its own, ties go to latent 0.
    assert rows_of(active) == [[(0, 3), (2, 2)], [], [(0, 2.5)]]
    assert active.l0 == 3


def test_batch_topk_ties_go_to_the_earlier_row_then_the_smaller_latent() -> None:
    active = BatchTopK(1, 3, group_rows=3).active(torch.ones(3, 3), EYE, ZERO, None, Alone())
    assert rows_of(active) == [[(0, 1), (1, 1), (2, 1)], [], []]


def test_batch_topk_is_exact_whatever_level_was_guessed() -> None:
    # The level of large rows lets nothing of small ones through, and the other way round.
    function = BatchTopK(2, 30, group_rows=8)
    generator = torch.Generator().manual_seed(0)
    W, b = torch.randn(30, 6, generator=generator), torch.zeros(30)
    for scale in (1.0, 100.0, 1e-6, 1.0):
        x = scale * torch.randn(20, 6, generator=generator)
        active = function.active(x, W, b, None, Alone())
        dense = Ragged(*active[:3]).to_dense(30)
        for start in (0, 8, 16):
            pre = torch.relu(x[start : start + 8] @ W.T)
            level = pre.flatten().topk(2 * len(pre)).values[-1]
            wanted = torch.where(pre >= level, pre, 0.0)
            torch.testing.assert_close(dense[start : start + 8], wanted)


def test_batch_topk_takes_fewer_where_fewer_are_positive() -> None:
    active = BatchTopK(3, 3, group_rows=2).active(X[1:2], EYE, ZERO, None, Alone())
    assert rows_of(active) == [[(0, 0.5)]]


def test_batch_topk_in_use_is_a_threshold_and_is_refused_without_one() -> None:
    function = BatchTopK(1, 3)
    with pytest.raises(ConfigError, match="no threshold yet"):
        function.encode(X, EYE, ZERO)
    function.threshold.fill_(2.0)
    found = function.encode(X, EYE, ZERO)
    wanted = [[(0, 3)], [], [(0, 2.5), (1, 2.5), (2, 2.5)]]
    assert kept(found.values, found.indices) == wanted, "2 is not above 2"
    assert found.count.tolist() == [1, 0, 3]


def test_jumprelu_keeps_what_is_above_the_threshold_of_its_latent() -> None:
    function = JumpReLU(1, 3)
    with torch.no_grad():
        function.threshold.copy_(torch.tensor([1.0, 0.5, 2.0]))
    found = function.encode(X, EYE, ZERO)
    # In order of value, not of distance to the threshold.
    assert kept(found.values, found.indices) == [
        [(0, 3), (1, 1)], [], [(0, 2.5), (1, 2.5), (2, 2.5)],
    ]  # fmt: skip


def test_jumprelu_in_training_has_the_lower_half_of_the_band() -> None:
    function = JumpReLU(1, 3)
    function.eps = 0.5
    with torch.no_grad():
        function.threshold.copy_(torch.tensor([1.0, 1.1, 2.3]))
    active = function.active(X[:1], EYE, ZERO, None, Alone())
    # 1.0 is above 1.1 - 0.25, so latent 1 takes part with value 0; 2.0 is not above 2.05.
    assert active.indices.tolist() == [0, 1]
    assert rows_of(active) == [[(0, 3)]]
    assert active.l0 == 1
    active.l0.backward()
    assert function.threshold.grad.tolist() == [0.0, -2.0, 0.0]


def test_jumprelu_starts_at_the_l0_that_is_wanted() -> None:
    function = JumpReLU(2, 4, bandwidth=0.1)
    # Of 8 pre-activations the four largest are above: 2 per row of 4.
    pre = torch.arange(1.0, 9.0).reshape(2, 4)
    assert function.prepare(pre) == 0.0
    assert function.threshold.tolist() == [5.0] * 4
    assert function.eps == pytest.approx(0.1 * float(pre.std()))


def test_relu_and_gated() -> None:
    found = ReLU(1, 3).encode(X, EYE, torch.tensor([-1.0, 0.0, 0.0]))
    assert kept(found.values, found.indices) == [
        [(0, 2), (2, 2), (1, 1)], [], [(1, 2.5), (2, 2.5), (0, 1.5)],
    ]  # fmt: skip
    function = Gated(1, 3)
    with torch.no_grad():
        function.r_mag.copy_(torch.tensor([math.log(2.0), 0.0, 0.0]))
        function.b_mag.copy_(torch.tensor([0.0, -2.0, 0.5]))
    # Gate x - (1, 0, 2); magnitude 2 x0, x1 - 2, x2 + 0.5. Latent 1 of row 0: open, but 1 - 2 < 0.
    found = function.encode(X, EYE, torch.tensor([-1.0, 0.0, -2.0]))
    assert kept(found.values, found.indices) == [[(0, 6)], [], [(0, 5), (2, 3), (1, 0.5)]]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_scaling_commutes_with_the_function(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, W = torch.randn(20, 6, generator=generator), torch.randn(30, 6, generator=generator)
    b = 0.1 * torch.randn(30, generator=generator)
    function = make_activation(name, k=3, num_latents=30)
    for tensor in function.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    before = function.encode(x, W, b)
    function.scale(2.5)
    after = function.encode(2.5 * x, W, 2.5 * b)
    assert torch.equal(after.indices, before.indices)
    torch.testing.assert_close(after.values, 2.5 * before.values)


@pytest.mark.parametrize("name", ["batch_topk", "jumprelu", "relu", "gated"])
@pytest.mark.parametrize("rows", [0, 1])
def test_no_active_latent_and_no_row(name: str, rows: int) -> None:
    function = make_activation(name, k=1, num_latents=3)
    for tensor in function.state_dict().values():
        tensor.zero_()
    found = function.encode(-torch.ones(rows, 3), EYE, ZERO)
    assert found.values.shape == (rows, 1)
    assert found.count.tolist() == [0] * rows
    assert not found.values.any()


def test_a_dictionary_in_half_precision_encodes_too() -> None:
    function = JumpReLU(1, 3, torch.bfloat16)
    with torch.no_grad():
        function.threshold.fill_(0.75)
    assert function.threshold.dtype == torch.float32
    found = function.encode(X, EYE.bfloat16(), ZERO.bfloat16())
    assert found.count.tolist() == [3, 0, 3]


def test_lists_of_one_width_in_order_of_value() -> None:
    entries = Ragged(
        torch.tensor([1.0, 0.0, 3.0, 3.0, -1.0]), torch.tensor([5, 6, 7, 9, 2], dtype=torch.int32),
        torch.tensor([0, 4, 5]),
    )  # fmt: skip
    found = padded(entries)
    assert found.values.tolist() == [[3.0, 3.0, 1.0], [0.0, 0.0, 0.0]]
    assert found.indices.tolist() == [[7, 9, 5], [0, 0, 0]]
    assert found.count.tolist() == [3, 0]


def test_the_level_that_a_share_is_above() -> None:
    assert level_of(torch.arange(10.0), 0.3) == 7.0
    assert level_of(torch.arange(10.0), 0.0) == 9.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("softmax", {}, "Choose one of topk, batch_topk"),
        ("batch_topk", {"group_rows": 0}, "group_rows is 0"),
        ("jumprelu", {"bandwidth": 0.0}, r"bandwidth is 0\.0"),
        ("jumprelu", {"bandwidth": math.nan}, "bandwidth is nan"),
    ],
)
def test_bad_settings_are_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_activation(name, k=1, num_latents=3, options=options)


@pytest.mark.parametrize("k", [-1, 0, 9])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_k_out_of_range_is_refused(name: str, k: int) -> None:
    with pytest.raises(ConfigError, match=f"dictionary.k is {k}.*between 1 and 8"):
        make_activation(name, k=k, num_latents=8)
