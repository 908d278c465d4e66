"""Sums over rows that two models share: all that CKA, SVCCA and PWCCA need, in one pass.

Of rows x [d1] and y [d2] these are kept in float64, after a fixed shift of each side:

    n,  Σx, Σy,  Σxxᵀ, Σyyᵀ, Σxyᵀ,  Σ‖x‖², Σ‖y‖²,  Σ‖x‖⁴, Σ‖y‖⁴, Σ‖x‖²‖y‖²,
    Σx‖x‖², Σx‖y‖², Σy‖x‖², Σy‖y‖²

So nothing grows with the rows: (d1² + d2² + d1·d2) · 8 bytes, 403 MB at 4096 and 4096.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bathyscope.metrics.arrays import pack, unpack
from bathyscope.metrics.finite import require_finite

# One float64 block is at most 32 MB per side.
_BLOCK_ELEMENTS = 1 << 22
# Sums of fourth powers lose the square of this ratio of mean² to variance: ten digits at 1e5.
_LARGEST_MEAN = 1e5


class PairedMoments:
    """Streaming sums of paired rows.

    `shift_x` [d1] and `shift_y` [d2] are taken from each row first. No result depends on them,
    but rounding does: pass the training means where means are large. Units that are to be merged
    need the same shifts. Sums lie on `device`.
    """

    def __init__(
        self,
        width_x: int,
        width_y: int,
        *,
        shift_x: Tensor | None = None,
        shift_y: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if width_x < 1 or width_y < 1:
            raise ValueError(f"widths are {width_x} and {width_y}: wanted at least 1")
        self.num_rows = 0
        self.widths = (width_x, width_y)
        self.shifts = tuple(
            torch.zeros(width, dtype=torch.float64, device=device)
            if shift is None
            else shift.to(device, torch.float64)
            for width, shift in zip(self.widths, (shift_x, shift_y), strict=True)
        )
        if (len(self.shifts[0]), len(self.shifts[1])) != self.widths:
            raise ValueError(
                f"shifts have {[len(shift) for shift in self.shifts]} entries: wanted one per "
                f"column, {list(self.widths)}"
            )
        for name, shift in zip(("shift_x", "shift_y"), self.shifts, strict=True):
            require_finite(name, shift)
        shapes = _shapes(width_x, width_y)
        self.sums = {
            name: torch.zeros(shape, dtype=torch.float64, device=device)
            for name, shape in shapes.items()
        }

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> None:
        """Add rows x [rows, d1] and y [rows, d2]: row r of both comes from the same place.

        Raises `ValueError` for other shapes and `NonFiniteError` for NaN or infinity.
        """
        if (
            x.ndim != 2
            or y.ndim != 2
            or len(x) != len(y)
            or (x.shape[1], y.shape[1]) != self.widths
        ):
            raise ValueError(
                f"x is {list(x.shape)} and y is {list(y.shape)}: wanted as many rows in both and "
                f"{self.widths[0]} and {self.widths[1]} columns"
            )
        require_finite("x", x)
        require_finite("y", y)
        step = max(1, _BLOCK_ELEMENTS // max(self.widths))
        for rows_x, rows_y in zip(x.split(step), y.split(step), strict=True):
            self._add(
                rows_x.to(self.shifts[0]) - self.shifts[0],
                rows_y.to(self.shifts[1]) - self.shifts[1],
            )
        self.num_rows += len(x)

    def merge(self, other: PairedMoments) -> None:
        """Add the rows of another accumulator of the same widths and shifts."""
        self._require_alike(other)
        self.num_rows += other.num_rows
        for name, tensor in other.sums.items():
            self.sums[name] += tensor.to(self.sums[name].device)

    def without(self, other: PairedMoments) -> PairedMoments:
        """Return what is left when the rows of `other`, all of them seen here, are taken away."""
        self._require_alike(other)
        if other.num_rows > self.num_rows:
            raise ValueError(f"cannot take {other.num_rows} rows from {self.num_rows}")
        made = self._empty()
        made.num_rows = self.num_rows - other.num_rows
        for name, tensor in self.sums.items():
            made.sums[name] = tensor - other.sums[name].to(tensor.device)
        return made

    def scatter(self, name: str) -> Tensor:
        """Return Σ(a-ā)(b-b̄)ᵀ for `name` "xx", "yy" or "xy".

        Raises `ValueError` without rows, or where a mean is so large that the digits are gone.
        """
        if self.num_rows == 0:
            raise ValueError("no rows were seen: a similarity needs rows of both models")
        for side in name:
            self._require_digits(side)
        return self.sums[name] - torch.outer(self.sums[name[0]], self.sums[name[1]]) / self.num_rows

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values: 11 bytes per entry of the matrices."""
        return {
            "num_rows": self.num_rows,
            "shifts": [pack(shift.cpu().numpy()) for shift in self.shifts],
            "sums": {name: pack(tensor.cpu().numpy()) for name, tensor in self.sums.items()},
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the accumulator that `to_dict` described."""
        shift_x, shift_y = (torch.from_numpy(_floats(shift)) for shift in state["shifts"])
        made = cls(len(shift_x), len(shift_y), shift_x=shift_x, shift_y=shift_y)
        made.num_rows = int(state["num_rows"])
        made.sums = {name: torch.from_numpy(_floats(state["sums"][name])) for name in made.sums}
        return made

    def _add(self, x: Tensor, y: Tensor) -> None:
        norm = {"x": x.square().sum(1), "y": y.square().sum(1)}
        rows = {"x": x, "y": y}
        for a in "xy":
            self.sums[a] += rows[a].sum(0)
            self.sums[f"norm_{a}"] += norm[a].sum()
            for b in "xy":
                self.sums[f"{a}_norm_{b}"] += norm[b] @ rows[a]
        for a, b in ("xx", "yy", "xy"):
            self.sums[a + b] += rows[a].T @ rows[b]
            self.sums[f"norms_{a}{b}"] += norm[a] @ norm[b]

    def _empty(self) -> PairedMoments:
        return PairedMoments(
            *self.widths,
            shift_x=self.shifts[0],
            shift_y=self.shifts[1],
            device=self.shifts[0].device,
        )

    def _require_alike(self, other: PairedMoments) -> None:
        if self.widths != other.widths:
            raise ValueError(f"cannot join widths {other.widths} with {self.widths}")
        if any(
            not torch.equal(own, theirs.to(own.device))
            for own, theirs in zip(self.shifts, other.shifts, strict=True)
        ):
            raise ValueError("the two were shifted differently: use one shift for all units")

    def _require_digits(self, side: str) -> None:
        offset = float(self.sums[side].square().sum()) / self.num_rows
        spread = float(self.sums[f"norm_{side}"]) - offset
        # All rows alike leaves rounding only: that is no variance, not lost digits.
        if spread > 1e-14 * offset * self.num_rows and offset > _LARGEST_MEAN * spread:
            raise ValueError(
                f"the squared mean of {side} is {offset / spread:.3g} times its variance, which "
                f"leaves too few digits: pass the mean of these rows as shift_{side}"
            )


def _shapes(width_x: int, width_y: int) -> dict[str, tuple[int, ...]]:
    width = {"x": width_x, "y": width_y}
    shapes: dict[str, tuple[int, ...]] = {}
    for a in "xy":
        shapes |= {a: (width[a],), f"norm_{a}": (), f"x_norm_{a}": (width_x,)}
        shapes |= {f"y_norm_{a}": (width_y,)}
    for a, b in ("xx", "yy", "xy"):
        shapes |= {a + b: (width[a], width[b]), f"norms_{a}{b}": ()}
    return shapes


def _floats(record: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return unpack(record).astype(np.float64)
