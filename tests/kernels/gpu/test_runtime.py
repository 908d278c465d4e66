"""Where kernels may run, and the list of them."""

import sys

import pytest
import torch

from bathyscope_kernels.gpu import runtime


def test_a_cpu_tensor_is_refused_without_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "INTERPRET", False)
    with pytest.raises(ValueError, match=r"got tensors on cpu, wanted a CUDA device"):
        runtime.check_device(torch.ones(1))


def test_the_interpreter_takes_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "INTERPRET", True)
    runtime.check_device(torch.ones(1), torch.ones(2))
    with pytest.raises(ValueError, match="got tensors on cpu, meta, wanted one device"):
        runtime.check_device(torch.ones(1), torch.ones(1, device="meta"))
    with pytest.raises(ValueError, match="got tensors on meta, wanted a CUDA device"):
        runtime.check_device(torch.ones(1, device="meta"))


def test_everything_imports_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("bathyscope_kernels.gpu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    from bathyscope_kernels.gpu import batch_topk, edges
    from bathyscope_kernels.gpu.runtime import HAS_TRITON

    assert not HAS_TRITON
    with pytest.raises(RuntimeError, match="triton is not installed"):
        edges.topk_edges(torch.ones(1, 1), torch.ones(1, 1), 1)
    with pytest.raises(RuntimeError, match="triton is not installed"):
        batch_topk.batch_topk_encode(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1), 1, 1)


def test_a_name_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "KERNELS", {})
    configuration = runtime.Configuration({"x": "*fp32"})
    runtime.register("one", None, [configuration])
    with pytest.raises(ValueError, match="'one' is registered already"):
        runtime.register("one", None, [configuration])
    with pytest.raises(ValueError, match="without a configuration"):
        runtime.register("two", None, [])
