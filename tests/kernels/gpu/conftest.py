"""Runs the GPU kernels: on a CUDA device if there is one, else in Triton's interpreter."""

import importlib
import os
import pkgutil
import sys

import torch

if not torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ:
    # Triton decides at import whether functions are interpreted, those of its own library too, and
    # transformers has imported it by now. It is imported again, all but its compiled part, with
    # the kernels. Afterwards the variable goes, so that no subprocess inherits it.
    for name in list(sys.modules):
        stale = f"{name}.".startswith(("triton.", "bathyscope_kernels.gpu."))
        if stale and not name.startswith("triton._C"):
            del sys.modules[name]
    os.environ["TRITON_INTERPRET"] = "1"
    package = importlib.import_module("bathyscope_kernels.gpu")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    del os.environ["TRITON_INTERPRET"]

from collections.abc import Callable

import pytest
from torch import Tensor

_POISON = {torch.uint8: 0xA5, torch.bool: True, torch.int32: -77, torch.int64: -(2**61) - 7}


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """A real GPU, for tests of what the interpreter cannot show."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: races, real precision or large shapes")
    return torch.device("cuda")


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """Fill what torch.empty returns, so that a value that nobody wrote shows."""
    real = torch.empty

    def empty(*arguments: object, **keywords: object) -> Tensor:
        made = real(*arguments, **keywords)
        return made.fill_(_POISON.get(made.dtype, torch.nan))

    monkeypatch.setattr(torch, "empty", empty)
    return empty
