"""A case: one operation at one shape, with its inputs, the ways to do it and their floor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from bathyscope_kernels.bench.floors import Work
from bathyscope_kernels.bench.measure import Way

OURS = "ours"
MATMUL = "matmul"
"""The matmul that the operation contains, alone, in the dtype of its inputs."""


class Case(NamedTuple):
    """What `cases` makes of an operation and a shape."""

    phases: Sequence[Work]
    """For the floor."""
    inputs: Sequence[tuple[Any, ...]]
    """One for each round, over and over."""
    ways: Mapping[str, Callable[[], Way]]
    """Makers of the ways; one that raises is left out, with the reason. All but `OURS` and
    `MATMUL` are peers."""
    dtype: torch.dtype
    """Of the large inputs."""
    error: Callable[[], float] | None = None
    """The error of ours; None where there is nothing of ours."""
