"""Runs the GPU kernels: on a CUDA device if there is one, else in Triton's interpreter, which the
conftest above chooses before anything imports Triton.
"""

from collections.abc import Callable

import pytest
import torch
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
