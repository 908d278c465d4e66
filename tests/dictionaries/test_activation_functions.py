"""What each activation function keeps, worked by hand, and that its lists grow as they must."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bathyscope.dictionaries import width as width_module
from bathyscope.dictionaries.activation_function import encoded, level_of
from bathyscope.dictionaries.batch_topk import BatchTopK
from bathyscope.dictionaries.gated import Gated
from bathyscope.dictionaries.jumprelu import JumpReLU
from bathyscope.dictionaries.kinds import ACTIVATIONS, make_activation
from bathyscope.dictionaries.peers import Alone
from bathyscope.dictionaries.relu import ReLU
from bathyscope.dictionaries.width import ListsTooWide, Width, passes_for, row_blocks
from bathyscope.errors import ConfigError

EYE, ZERO = torch.eye(3), torch.zeros(3)
X = torch.tensor([[3.0, 1.0, 2.0], [0.5, -1.0, 0.0], [2.5, 2.5, 2.5]])


def kept(values: Tensor, indices: Tensor) -> list[list[tuple[int, float]]]:
    """(latent, value) of each row, in order, without empty slots."""
    return [
        [(i, v) for v, i in zip(row, places, strict=True) if v != 0]
        for row, places in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def test_topk() -> None:
    found = make_activation("topk", k=2, num_latents=3).encode(X, EYE, ZERO)
    assert kept(found.values, found.indices) == [[(0, 3), (2, 2)], [(0, 0.5)], [(0, 2.5), (1, 2.5)]]


def test_batch_topk_in_training_takes_the_largest_of_a_group() -> None:
    function = BatchTopK(1, 3, group_rows=2)
    active = function.active(X, EYE, ZERO, None, Alone())
    # Rows 0 and 1 share two, both of row 0; row 2 is a group of its own, ties go to latent 0.
    assert kept(active.values, active.indices) == [[(0, 3), (2, 2)], [], [(0, 2.5)]]
    assert active.l0.tolist() == [2, 0, 1]


def test_batch_topk_ties_go_to_the_earlier_row_then_the_smaller_latent() -> None:
    active = BatchTopK(1, 3, group_rows=3).active(torch.ones(3, 3), EYE, ZERO, None, Alone())
    assert kept(active.values, active.indices) == [[(0, 1), (1, 1), (2, 1)], [], []]


def test_batch_topk_loses_nothing_where_one_row_has_more_than_its_list_holds() -> None:
    # One row of 40 large values: 4 k slots are 16 at first, and all 40 are wanted.
    x = torch.zeros(40, 64)
    x[7, :40] = torch.arange(1.0, 41.0)
    x[8, 3] = 0.5
    function = BatchTopK(1, 64, group_rows=40)
    active = function.active(x, torch.eye(64), torch.zeros(64), None, Alone())
    assert active.l0[7] == 40
    assert active.l0.sum() == 40
    assert function.width.slots >= 41


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
    assert sorted(active.indices[active.used].tolist()) == [0, 1]
    assert kept(active.values, active.indices) == [[(0, 3)]]
    assert active.l0.tolist() == [1]
    active.l0.sum().backward()
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


def test_lists_grow_until_every_row_has_room_and_shrink_again() -> None:
    width, W, b = Width(3, 100), torch.eye(100), torch.zeros(100)
    assert width.slots == 16
    many = width.encode_above(torch.ones(2, 100), W, b)
    assert many.count.tolist() == [100, 100]
    assert width.slots == 100, "never more than there are latents"
    for _ in range(20):
        assert width.encode_above(torch.eye(100)[:2], W, b).count.tolist() == [1, 1]
    assert width.slots == 16


def test_lists_that_would_take_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(width_module, "MOST_ENTRIES", 1000)
    width = Width(3, 100)
    with pytest.raises(ListsTooWide, match="Encode fewer rows at a time"):
        width.lists_above(torch.ones(20, 100), torch.eye(100), torch.zeros(100))
    assert passes_for(20, width.slots) > 1
    alone = Width(3, 100).lists_above(torch.ones(1, 100), torch.eye(100), torch.zeros(100))
    assert alone.used.sum() == 100, "one row is never too wide"


@pytest.mark.parametrize(
    ("rows", "passes", "sizes"), [(10, 3, [4, 4, 2]), (1, 4, [1]), (4, 1, [4])]
)
def test_rows_of_passes(rows: int, passes: int, sizes: list[int]) -> None:
    assert [block.stop - block.start for block in row_blocks(rows, passes)] == sizes


def test_lists_in_order_of_value() -> None:
    found = encoded(
        torch.tensor([[1.0, 0.0, 3.0], [-1.0, 0.0, 0.0]]), torch.tensor([[5, 0, 7]] * 2)
    )
    assert found.values.tolist() == [[3.0, 1.0], [0.0, 0.0]]
    assert found.indices.tolist() == [[7, 5], [0, 0]]
    assert found.count.tolist() == [2, 0]


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
