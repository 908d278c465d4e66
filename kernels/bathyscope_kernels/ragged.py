"""Ragged rows: a [rows, columns] matrix with any number of nonzeros in each row.

Flow: selections that keep a different number of entries per row (BatchTopK, JumpReLU, edges above
a threshold) return a `Ragged`; `ragged_products` multiplies with it. It is the CSR format: the
entries of row r are those from offsets[r] to offsets[r + 1].
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Ragged(NamedTuple):
    """The kept entries of each row, in ascending order of their index within a row."""

    values: Tensor
    """[nnz] floating point."""
    indices: Tensor
    """[nnz] int32 columns: latents, or sources of edges."""
    offsets: Tensor
    """[rows + 1] int64, from 0 to nnz."""

    @property
    def num_rows(self) -> int:
        return self.offsets.numel() - 1

    @property
    def counts(self) -> Tensor:
        """[rows] int64: how many entries each row has."""
        return self.offsets.diff()

    def row(self, row: int) -> tuple[Tensor, Tensor]:
        """Return the values and the indices of one row, as views."""
        if not 0 <= row < self.num_rows:
            raise ValueError(f"got row {row} of a Ragged, wanted 0 to {self.num_rows - 1}")
        entries = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        return self.values[entries], self.indices[entries]

    def rows(self, start: int, stop: int) -> "Ragged":
        """Return rows `start` to `stop` (excluded) as a Ragged of their own."""
        if not 0 <= start <= stop <= self.num_rows:
            raise ValueError(
                f"got rows {start} to {stop} of a Ragged, wanted 0 <= start <= stop <= "
                f"{self.num_rows}"
            )
        offsets = self.offsets[start : stop + 1]
        entries = slice(int(offsets[0]), int(offsets[-1]))
        return Ragged(self.values[entries], self.indices[entries], offsets - offsets[0])

    def to_dense(self, num_columns: int) -> Tensor:
        """Return [rows, num_columns] with zeros elsewhere. For tests and small matrices."""
        dense = self.values.new_zeros(self.num_rows, num_columns)
        return dense.index_put((row_of(self.offsets), self.indices.to(torch.int64)), self.values)


def row_of(offsets: Tensor, num_entries: int | None = None) -> Tensor:
    """Return the row of each entry, [nnz] int64; a GPU need not be asked for a given nnz."""
    rows = torch.arange(offsets.numel() - 1, device=offsets.device)
    return torch.repeat_interleave(rows, offsets.diff(), output_size=num_entries)


def from_coordinates(
    values: Tensor, rows: Tensor, columns: Tensor, *, num_rows: int, num_columns: int
) -> Ragged:
    """Make a Ragged of entries in any order: values, rows and columns, each [nnz].

    Raises ValueError for shapes that differ, for coordinates outside num_rows x num_columns, and
    for a place that comes twice.
    """
    if not values.ndim == rows.ndim == columns.ndim == 1 or not (
        values.shape == rows.shape == columns.shape
    ):
        raise ValueError(
            f"got values {list(values.shape)}, rows {list(rows.shape)}, columns "
            f"{list(columns.shape)}; wanted three lists [nnz] of one length"
        )
    for name, given, size in (("rows", rows, num_rows), ("columns", columns, num_columns)):
        if given.numel() > 0 and (int(given.min()) < 0 or int(given.max()) >= size):
            raise ValueError(
                f"got {name} from {int(given.min())} to {int(given.max())}, wanted 0 to {size - 1}"
            )
    positions, order = torch.sort(rows.to(torch.int64) * num_columns + columns.to(torch.int64))
    if bool((positions[1:] == positions[:-1]).any()):
        raise ValueError("got a place twice, wanted each row and column once; add them up first")
    return from_positions(values[order], positions, num_rows=num_rows, num_columns=num_columns)


def from_positions(values: Tensor, positions: Tensor, *, num_rows: int, num_columns: int) -> Ragged:
    """Make a Ragged of entries at ascending int64 `positions`, row * num_columns + column."""
    starts = torch.arange(num_rows + 1, device=positions.device) * num_columns
    offsets = torch.searchsorted(positions, starts)
    return Ragged(values, (positions % max(1, num_columns)).to(torch.int32), offsets)
