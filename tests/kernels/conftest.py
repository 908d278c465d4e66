"""The dense oracle in float64, and a meter of live memory, as fixtures."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bathyscope_kernels.cpu import encode as cpu_encode
from bathyscope_kernels.cpu import sparse as cpu_sparse
from bathyscope_kernels.cpu.library import library


def _topk(x: Tensor, W: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values, indices and count by a stable sort of the dense pre-activations."""
    pre = x.double() @ W.double().T + b.double()
    values, indices = torch.sort(pre, dim=1, descending=True, stable=True)
    values, indices = values[:, :k], indices[:, :k]
    unused = values <= 0
    count = (~unused).sum(1)
    return values.masked_fill(unused, 0), indices.masked_fill(unused, 0), count


def _decode(values: Tensor, indices: Tensor, W: Tensor) -> Tensor:
    """Dense decode: scatter to [rows, latents], one matmul."""
    acts = torch.zeros(values.shape[0], W.shape[0], dtype=torch.float64)
    acts = acts.scatter_add(1, indices.long(), values.double())
    return acts @ W.double()


def _eighths(*shape: int, seed: int, low: int = -8, high: int = 9) -> Tensor:
    """Integers / 8: sums of a few hundred products are exact in float32, and ties abound."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator).float() / 8


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["compiled", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on the compiled CPU path and on the torch path."""
    if request.param == "torch":
        for module in (cpu_encode, cpu_sparse):
            monkeypatch.setattr(module, "library", lambda: None)
    elif library() is None:
        pytest.skip("no compiled library: no C++ compiler here")
    return str(request.param)


@pytest.fixture(scope="session")
def oracle() -> SimpleNamespace:
    return SimpleNamespace(topk=_topk, decode=_decode, eighths=_eighths, normal=_normal)


@pytest.fixture(scope="session")
def peak_bytes() -> Callable[[Callable[[], object]], int]:
    """Run a function and return the most bytes that it held at one time."""

    def measure(function: Callable[[], object]) -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
            kept = function()
        live, peak = 0, 0
        for event in run.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                peak = max(peak, live)
        del kept
        assert peak > 0, "the profiler reported no allocations, so this measures nothing"
        return peak

    return measure
