"""Rows made of planted directions, with what makes real activations hard to take apart.

    x = mean + Σ_i a_i s_i d_i + noise

- `num_true` random unit directions d_i in a space of a quarter as many dimensions;
- use by Zipf's law: direction i is active with a probability in proportion to (i + 1)^-zipf;
- families: a share of the directions are children, which are active only where their parent is;
- friends: pairs that are active together more often than by chance;
- sizes s_i of log-normal law, whose largest are many times the median;
- a mean that is longer than any size, and Gaussian noise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize


class PlantedRows(NamedTuple):
    """Rows and what they are made of."""

    x: Tensor
    """[rows, d] float32."""
    active: Tensor
    """[rows, num_true] bool: which directions are in a row."""


class Planted:
    """A source of rows; the same seed plants the same directions.

    `l0` is the mean number of active directions of a row, up to what families take away.
    """

    def __init__(
        self,
        d: int,
        *,
        num_true: int | None = None,
        l0: float = 8.0,
        zipf: float = 0.7,
        children: float = 0.25,
        friends: float = 0.25,
        noise: float = 0.02,
        spread: float = 0.6,
        seed: int = 0,
    ) -> None:
        num_true = num_true or 4 * d
        generator = torch.Generator().manual_seed(seed)
        self.directions = normalize(torch.randn(num_true, d, generator=generator), dim=1)
        weights = torch.arange(1, num_true + 1, dtype=torch.float64) ** -zipf
        self.density = (l0 * weights / weights.sum()).clamp_max(0.5).float()
        order = torch.randperm(num_true, generator=generator)
        half = num_true // 2
        count = min(round(children * num_true), half)
        # Parents are among the more frequent half, children among the others.
        self.children = half + torch.randperm(num_true - half, generator=generator)[:count]
        self.parents = torch.randperm(half, generator=generator)[:count]
        pairs = round(friends * num_true / 2)
        self.friends = order[: 2 * pairs].view(pairs, 2)
        self.mean = 3 * normalize(torch.randn(d, generator=generator), dim=0)
        self._noise, self._spread = noise, spread

    def rows(self, num: int, seed: int) -> PlantedRows:
        """`num` rows; other seeds give other rows of the same directions."""
        generator = torch.Generator().manual_seed(seed)
        chance = torch.rand(num, len(self.density), generator=generator)
        # A friend looks at its partner's chance in a third of the rows.
        together = torch.rand(num, len(self.friends), generator=generator) < 1 / 3
        first, second = self.friends[:, 0], self.friends[:, 1]
        chance[:, second] = torch.where(together, chance[:, first], chance[:, second])
        active = chance < self.density
        # A child is as frequent as its density says of the rows that its parent is in.
        within = torch.rand(num, len(self.children), generator=generator)
        ratio = (self.density[self.children] / self.density[self.parents]).clamp_max(1)
        active[:, self.children] = active[:, self.parents] & (within < ratio)
        sizes = torch.randn(active.shape, generator=generator).mul_(self._spread).exp_()
        x = (active * sizes) @ self.directions + self.mean
        noise = torch.randn(x.shape, generator=generator)
        return PlantedRows(x + self._noise * noise, active)
