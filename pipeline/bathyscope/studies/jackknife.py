"""Intervals of statistics whose sums are too large to keep per document.

Documents are put into blocks; each block is left out in turn (delete-a-group jackknife, Shao and
Tu 1995, section 2.3). It covers which documents were drawn. It does not cover another training
seed, another dictionary or another corpus.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from scipy.stats import t as student


class Sums(Protocol):
    """Sums over rows that can be added and taken away."""

    def merge(self, other: Any) -> None:
        """Add the rows of another one."""

    def without(self, other: Any) -> Any:
        """Return what is left without the rows of another one."""


S = TypeVar("S", bound=Sums)


class BlockInterval(NamedTuple):
    """A statistic with its interval over blocks of documents."""

    estimate: float
    """The statistic of all rows."""
    low: float
    high: float
    level: float
    standard_error: float
    num_blocks: int


def jackknife(
    blocks: Sequence[S], statistic: Callable[[S], float], *, level: float = 0.95
) -> BlockInterval:
    """Return statistic(all blocks) ± t(g - 1) · √((g-1)/g · Σ(θ_-i - mean θ_-)²).

    Blocks hold whole documents and about as many rows each; 20 are enough. Each is read twice
    and only two are held, so the sequence may load them. Raises `ValueError` for fewer than two.
    """
    num = len(blocks)
    if num < 2 or not 0 < level < 1:
        raise ValueError(
            f"{num} blocks and level {level}: wanted at least 2 blocks of documents and a level "
            "between 0 and 1"
        )
    total = copy.deepcopy(blocks[0])
    for number in range(1, num):
        total.merge(blocks[number])
    left = [statistic(total.without(blocks[number])) for number in range(num)]
    mean = math.fsum(left) / num
    error = math.sqrt((num - 1) / num * math.fsum((value - mean) ** 2 for value in left))
    estimate = statistic(total)
    reach = float(student.ppf((1 + level) / 2, num - 1)) * error
    return BlockInterval(estimate, estimate - reach, estimate + reach, level, error, num)
