"""Column blocks: which columns of W_enc and W_dec belong to which hook point.

One layout serves every kind: an autoencoder has one block, a crosscoder one per hook point.
"""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.values import Json


@dataclass(frozen=True)
class ColumnBlock:
    """Columns start..stop of both matrices stand for one hook point."""

    hook_point: str
    start: int
    stop: int

    def to_dict(self) -> Json:
        """A JSON form that `from_dict` reads back."""
        return {"hook_point": self.hook_point, "start": self.start, "stop": self.stop}

    @classmethod
    def from_dict(cls, data: Json) -> ColumnBlock:
        """The block that `to_dict` wrote."""
        return cls(data["hook_point"], int(data["start"]), int(data["stop"]))
