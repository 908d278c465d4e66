"""Which units are done twice, to see that the same bytes come out wherever a unit is done."""

from __future__ import annotations

from collections.abc import Callable

import xxhash

from bathyscope.runs.work import Begun
from bathyscope.stages.stage import Stage


def audited(stage: Stage, begun: Begun, share: float) -> Callable[[int], bool] | None:
    """Says of a unit whether it is to be audited; None where none is.

    The choice depends on the unit and the artifact alone, so that it is the same after a restart.
    Stages that write rows take part: those with `AUDITED = True`.
    """
    if share <= 0 or not getattr(stage, "AUDITED", False):
        return None
    name = begun.work.segment.name

    def chosen(unit: int) -> bool:
        return xxhash.xxh3_64_intdigest(f"audit {name} {unit}".encode()) < share * 2**64

    return chosen
