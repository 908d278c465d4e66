"""The processes that train one dictionary: how rows and latents are split over them.

`Single` is one process. `training.parallel` has the mesh of several; the step is the same.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.dictionaries.peers import Alone, Peers


class Mesh(Protocol):
    """What a training step asks of all processes together."""

    @property
    def peers(self) -> Peers:
        """The holders of the other latents."""
        ...

    def sum_rows(self, tensor: Tensor) -> Tensor:
        """The sum over processes with other rows of the batch, of a tensor without gradient."""
        ...

    def sum_latents(self, tensor: Tensor) -> Tensor:
        """The sum over processes with other latents, of a tensor without gradient."""
        ...

    def join(self, partial: Tensor) -> Tensor:
        """The sum over processes with other latents; gradients go back to each part as they are."""
        ...

    def sum_gradients(self, dictionary: AnyDictionary) -> None:
        """Add up the gradients of processes with other rows, in `.grad`."""
        ...

    def first_latents(self, held: Tensor) -> Tensor:
        """The number of the first latent of each part that this process holds [parts]."""
        ...

    def first_row(self, held: int) -> int:
        """The number of the first row of the batch that this process has; all have `held`."""
        ...


class Single:
    """One process has all rows and all latents."""

    peers: Peers = Alone()

    def sum_rows(self, tensor: Tensor) -> Tensor:
        """The tensor."""
        return tensor

    def sum_latents(self, tensor: Tensor) -> Tensor:
        """The tensor."""
        return tensor

    def join(self, partial: Tensor) -> Tensor:
        """The tensor."""
        return partial

    def sum_gradients(self, dictionary: AnyDictionary) -> None:
        """Leave them."""

    def first_latents(self, held: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(held)

    def first_row(self, held: int) -> int:
        """Zero."""
        return 0
