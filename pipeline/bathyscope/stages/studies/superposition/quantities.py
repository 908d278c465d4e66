"""What is followed along the training of each model, to be compared at equal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bathyscope.stages.studies.equal_loss import Asked, Curve
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.superposition.measures import FINAL
from bathyscope.stages.studies.verdicts import Row
from bathyscope.studies.matched import Checkpoint


class Quantity(NamedTuple):
    """What is compared: a column of the rows of one kind."""

    kind: str
    key: str
    title: str
    less: str
    """`lower` or `higher`: which of two values means less superposition."""

    @property
    def asked(self) -> Asked:
        """Whether the larger of two models has less superposition."""
        claim = f"the larger of two models has the {self.less} {self.title}."
        return Asked(claim, self.title, self.less)


def curve_of(member: Member, rows: Sequence[Row], quantity: Quantity) -> list[Checkpoint]:
    """(tokens, loss, value) along the training; the final weights come last."""
    found: dict[int, Checkpoint] = {}
    for row in rows:
        if (
            row["member"] == member.name
            and row["kind"] == quantity.kind
            and row.get(quantity.key) is not None
            and row.get("loss") is not None
            and row.get("state_tokens") is not None
        ):
            tokens = int(row["state_tokens"])
            # Of equal tokens the final weights count.
            if row["state"] == FINAL or tokens not in found:
                found[tokens] = Checkpoint(tokens, row["loss"], row[quantity.key])
    return [found[tokens] for tokens in sorted(found)]


def curves_of(rows: Sequence[Row], quantity: Quantity) -> Curve:
    """The curve of each member."""
    return lambda member: curve_of(member, rows, quantity)
