"""Column blocks: which columns of W_enc and W_dec belong to which hook point.

One layout serves every kind: an autoencoder has one block, a crosscoder one per hook point, and a
transcoder other blocks for what it reads than for what it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bathyscope.values import Json


@dataclass(frozen=True)
class ColumnBlock:
    """Columns start..stop of a matrix stand for one hook point."""

    hook_point: str
    start: int
    stop: int

    @property
    def width(self) -> int:
        """Number of columns: the width of the activations there."""
        return self.stop - self.start

    @property
    def columns(self) -> slice:
        """The columns, to index rows with."""
        return slice(self.start, self.stop)

    def to_dict(self) -> Json:
        """A JSON form that `from_dict` reads back."""
        return {"hook_point": self.hook_point, "start": self.start, "stop": self.stop}

    @classmethod
    def from_dict(cls, data: Json) -> ColumnBlock:
        """The block that `to_dict` wrote."""
        return cls(data["hook_point"], int(data["start"]), int(data["stop"]))


Columns = tuple[ColumnBlock, ...]


def columns_of(hook_points: Sequence[tuple[str, int]]) -> Columns:
    """One block after the other for (hook point, width) pairs."""
    blocks, start = [], 0
    for name, width in hook_points:
        blocks.append(ColumnBlock(name, start, start + width))
        start += width
    return tuple(blocks)


def width_of(columns: Columns) -> int:
    """Number of columns of all blocks."""
    return columns[-1].stop
