"""What each technique gives of one member: rows of the study's table."""

from __future__ import annotations

from collections.abc import Callable

from bathyscope.config import Config
from bathyscope.runs.run import Run
from bathyscope.stages.studies.capability.graphs import measure_graphs
from bathyscope.stages.studies.capability.patching import measure_patching
from bathyscope.stages.studies.capability.probing import measure_probes
from bathyscope.stages.studies.capability.recovered import measure_recovered
from bathyscope.stages.studies.capability.sizes import (
    probed_sizes,
    protocols_of,
    spliced_sizes,
)
from bathyscope.stages.studies.member_runs import width_of
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.study import Tell
from bathyscope.values import Json


def measure_member(config: Config, transcoders: Config, tell: Tell) -> list[Json]:
    """Rows of all techniques; `config` is that of the member's run, the other of its transcoders.

    Graphs are in float32 or wider, as attribution elsewhere: their rows then add up.
    """
    opened, width = OpenedMember(config), width_of(config)

    def part(start: float, stop: float) -> Callable[..., None]:
        return lambda share, text="": tell(start + (stop - start) * share, text)

    rows = measure_recovered(opened, spliced_sizes(config, width), part(0, 0.35))
    rows += measure_probes(opened, probed_sizes(config, width), part(0.35, 0.6))
    rows += measure_patching(opened, part(0.6, 0.75))
    rows += measure_graphs(opened, dict(Run(transcoders.url).dictionaries), part(0.75, 1))
    for row in rows:
        row["d"] = width
        row["protocols"] = protocols_of(config, width, row)
    return rows
