"""Any torch module: built by name, filled from tensors only, identified by what made it."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bathyscope.errors import HookPointError, ModelError
from bathyscope.models.capture import capture
from bathyscope.models.hook_points import resolve
from bathyscope.models.modules import (
    build_module,
    empty_module,
    load_module,
    module_digest,
    weights_path,
)
from bathyscope.models.shapes import model_shape


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=2)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))

    @classmethod
    def of_width(cls, width: int) -> Net:
        return cls(width)


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = types.ModuleType("small_nets")
    made.Net, made.number, made.NOT_CALLABLE = Net, lambda: 3, 1
    monkeypatch.setitem(sys.modules, "small_nets", made)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = Net(6)
    net.norm.running_mean.normal_()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    torch.save(net.state_dict(), tmp_path / "net.pth")
    torch.save({"state_dict": net.state_dict()}, tmp_path / "wrapped.pth")
    return tmp_path


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth", "wrapped.pth"])
@pytest.mark.parametrize("factory", ["small_nets:Net", "small_nets:Net.of_width"])
def test_a_module_has_its_weights_and_is_in_evaluation(
    weights: Path, name: str, factory: str
) -> None:
    loaded = load_module(factory, {"width": 6}, str(weights / name), dtype=torch.float32)
    plain = Net(6).eval()
    plain.load_state_dict(torch.load(weights / "net.pth", weights_only=True))
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(loaded.model(x), plain(x))
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert str(loaded.input_device) == "cpu"


def test_the_dtype_is_that_of_the_run(weights: Path) -> None:
    path = str(weights / "net.safetensors")
    loaded = load_module("small_nets:Net", {"width": 6}, path, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_a_module_is_not_spread_over_devices(weights: Path) -> None:
    path = str(weights / "net.pth")
    load_module("small_nets:Net", {"width": 6}, path, dtype=torch.float32, device="cpu")
    with pytest.raises(ModelError, match="device_map is 'balanced', but a module is loaded on one"):
        load_module("small_nets:Net", {"width": 6}, path, dtype=torch.float32, device="balanced")


def test_shapes_are_known_without_data() -> None:
    empty = empty_module("small_nets:Net", {"width": 6})
    assert all(p.is_meta for p in empty.parameters())
    shape = model_shape(empty, ["conv", "head", "conv:in"], image_size=9)
    assert shape.positions == [16, 1, 81]
    assert shape.widths == [6, 5, 3]
    assert shape.num_parameters == 3 * 6 * 9 + 6 + 12 + 6 * 5 + 5


def test_channels_may_come_last() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.turn(x.permute(0, 2, 3, 1))

    given = model_shape(Last(), ["turn"], image_size=4, channels_last=["turn"])
    assert (given.positions, given.widths) == ([16], [3])
    assert model_shape(Last(), ["turn"], image_size=4).widths == [4]


def test_hooks_of_a_module_are_paths(weights: Path) -> None:
    net = Net()
    seen = capture(net.eval(), [resolve(net, "norm")], torch.randn(2, 3, 9, 9))
    assert seen["norm"].shape == (2, 4, 4, 4)
    with pytest.raises(HookPointError, match="needs a model family"):
        resolve(net, "resid_post.1")


@pytest.mark.parametrize(
    ("factory", "arguments", "said"),
    [
        ("small_nets", {}, r"Wanted package\.module:function"),
        ("small_nets:", {}, r"Wanted package\.module:function"),
        ("no_such_package:Net", {}, "cannot be imported"),
        ("small_nets:Nat", {}, "cannot be imported"),
        ("small_nets:Net", {"depth": 3}, r"Net\(depth=3\) failed: TypeError"),
        ("small_nets:NOT_CALLABLE", {}, "failed: TypeError"),
        ("small_nets:number", {}, "returned int; a torch module was wanted"),
    ],
)
def test_what_cannot_be_built_is_refused(
    factory: str, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        build_module(factory, arguments)


def test_weights_of_another_shape_are_refused(weights: Path) -> None:
    with pytest.raises(ModelError, match=r"net\.safetensors does not fit small_nets:Net.*size mis"):
        load_module("small_nets:Net", {}, str(weights / "net.safetensors"), dtype=torch.float32)


def test_files_that_run_code_are_not_read(weights: Path) -> None:
    torch.save(Net(6), weights / "whole.pth")
    torch.save({"conv.weight": "text"}, weights / "text.pth")
    (weights / "broken.pth").write_bytes(b"no file of torch")
    for name, said in (
        ("whole.pth", "holds no plain tensors"),
        ("text.pth", "holds more than tensors: conv.weight"),
        ("broken.pth", "holds no plain tensors"),
    ):
        with pytest.raises(ModelError, match=said):
            load_module("small_nets:Net", {}, str(weights / name), dtype=torch.float32)


def test_weights_are_found_in_packages_and_as_files(weights: Path) -> None:
    assert weights_path(str(weights / "net.pth")) == weights / "net.pth"
    assert weights_path("bathyscope:py.typed").name == "py.typed"
    with pytest.raises(ModelError, match="no package 'no_such_package' is installed"):
        weights_path("no_such_package:net.pth")
    with pytest.raises(ModelError, match="is no file"):
        weights_path("bathyscope:no_such_file")
    with pytest.raises(ModelError, match="is no file"):
        weights_path(str(weights / "absent.pth"))


def test_arguments_weights_and_function_identify_a_module(weights: Path) -> None:
    path = str(weights / "net.pth")
    one = module_digest("small_nets:Net", {"width": 6}, path)
    assert one == module_digest("small_nets:Net", {"width": 6}, path)
    assert one["factory"] == "small_nets:Net(width=6)"
    assert one["package"] == "not a distribution"
    assert "numpy" in module_digest("numpy:array", {}, path)["package"]
    for other in (
        module_digest("small_nets:Net", {"width": 5}, path),
        module_digest("small_nets:Net.of_width", {"width": 6}, path),
        module_digest("small_nets:Net", {"width": 6}, str(weights / "net.safetensors")),
    ):
        assert other != one
