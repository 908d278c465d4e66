"""Heads and whole hook points changed inside a running model."""

from __future__ import annotations

from torch import Tensor

from bathyscope.attribution.interventions.changes import (
    Change,
    Mean,
    Resample,
    Rows,
    Steer,
    applied,
)
from bathyscope.attribution.interventions.intervention import AttentionHeads, Intervention
from bathyscope.attribution.interventions.place import Place
from bathyscope.errors import HookPointError


class VectorChange:
    """One intervention on vectors at a hook point: all of a row, or the columns of some heads.

    `count` is the number of heads side by side in a row; 1 for the whole row.
    """

    def __init__(self, intervention: Intervention, name: str, place: Place, count: int = 1) -> None:
        self._intervention, self._name, self._place = intervention, name, place
        target = intervention.target
        self._count = count
        self._heads = list(target.heads) if isinstance(target, AttentionHeads) else [0]

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., d] with the chosen rows changed, the others as they are to the bit."""
        numbers, rows = self._place.rows(self._name, x, self._intervention.positions)
        if len(numbers) == 0:
            return x
        numbers = numbers.to(x.device)
        flat = x.reshape(-1, x.shape[-1])
        return flat.index_copy(0, numbers, self._changed(flat[numbers], rows)).reshape(x.shape)

    def _changed(self, x: Tensor, rows: Rows) -> Tensor:
        """Rows [n, d] with the columns of the heads changed."""
        split = self._split(x)
        old = split[:, self._heads]
        new = applied(self._fitting(old.shape[-1]), old, rows, self._reference(x))
        made = split.index_copy(1, x.new_tensor(self._heads).long(), new.to(x.dtype))
        return made.reshape(x.shape)

    def _split(self, x: Tensor) -> Tensor:
        width, rest = divmod(x.shape[-1], self._count)
        if rest:
            raise HookPointError(
                f"{self._name} has {x.shape[-1]} columns, which {self._count} heads cannot share."
            )
        return x.reshape(*x.shape[:-1], self._count, width)

    def _fitting(self, width: int) -> Change:
        change = self._intervention.change
        direction = change.direction if isinstance(change, Steer) else None
        if direction is not None and len(direction) != width:
            raise HookPointError(
                f"The direction to steer {self._intervention.target.described} along has "
                f"{len(direction)} numbers; wanted {width}."
            )
        return change

    def _reference(self, x: Tensor) -> Tensor | None:
        change = self._intervention.change
        if not isinstance(change, Mean | Resample):
            return None
        given = change.activations
        assert given is not None, "with_reference has put them in place"
        if given.shape[-1] != x.shape[-1]:
            raise HookPointError(
                f"The activations for {self._intervention.target.described} have "
                f"{given.shape[-1]} columns; {self._name} has {x.shape[-1]}."
            )
        return self._split(given)[..., self._heads, :]
