"""sweep: a dictionary for each point of a grid, several trained at once, and one table of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from bathyscope.commands.disk import check_disk, estimate
from bathyscope.commands.plan import lines
from bathyscope.commands.progress import Screen
from bathyscope.commands.run import Record, Step, carry_out, stages_of
from bathyscope.commands.sweep_table import store_table, table_of, told
from bathyscope.commands.training_plan import training_footprint, training_lines
from bathyscope.config import Config
from bathyscope.runs.run import Run
from bathyscope.stages import sweep as stage
from bathyscope.stages.log_writers import check_installed
from bathyscope.stages.model import describe_model
from bathyscope.stages.sweep import Swept
from bathyscope.stores.objects import Objects
from bathyscope.sweep_points import SweepPoint
from bathyscope.values import Json


def sweep(
    base: Config,
    points: Sequence[SweepPoint],
    *,
    resolved: Json | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
    screen: Screen | None = None,
) -> bool:
    """Train and measure every point of a grid; whether none diverged.

    What is there already is kept, so a grid may grow from one call to the next. Points with other
    activations have runs of their own beneath `base.url`. The table of all points is printed, and
    lies in `sweeps/<name>` of the run.
    """
    screen = screen or Screen()
    check_installed(base.logging)
    groups = _groups(points)
    _plan(groups, screen)
    record = Record(base.url, resolved or {}, overrides, "sweep")
    errors: dict[tuple[str, str], str] = {}
    carry_out(base, _steps(groups, errors, screen), record=record, screen=screen)
    table = table_of(points, errors)
    folder = f"{stage.SWEEPS}/{base.sweep.name}"
    store_table(Objects(base.url).at(folder), table)
    say(told(table))
    say(f"table: {base.url.rstrip('/')}/{folder}/table.parquet, and the same as table.json")
    return not errors


def _groups(points: Sequence[SweepPoint]) -> list[Swept]:
    """The points of each run, as one configuration with all of its dictionaries."""
    by_url: dict[str, list[Config]] = {}
    for point in points:
        by_url.setdefault(point.config.url, []).append(point.config)
    groups = []
    for configs in by_url.values():
        first = configs[0]
        settings = {f.name: getattr(first, f.name) for f in dataclasses.fields(Config)}
        # What is left to do changes from call to call; dictionaries have their own force.
        groups.append(Swept(**{**settings, "force": True}, dictionaries=configs))
    return groups


def _plan(groups: Sequence[Swept], screen: Screen) -> None:
    """Say what is to come, and check the disk for all of it."""
    for group in groups:
        first = group.dictionaries[0]
        model = describe_model(first)
        needed = estimate(first, model)
        sizes = [estimate(config, model).dictionary for config in group.dictionaries]
        # Latents are not encoded in a sweep.
        needed = replace(needed, dictionary=sum(sizes), latents=0)
        for line in lines(first, model, needed):
            if not line.startswith(("dictionary ", "training ", "SHORT ")):
                screen.line(line)
        names = [config.dictionary.name for config in group.dictionaries]
        widths = dict(zip(first.hooks.points, model.shape.widths, strict=True))
        largest = sorted(
            (training_footprint(config, widths) for config in group.dictionaries),
            key=lambda found: -found.total,
        )[: group.sweep.together]
        shown = ", ".join(names[:6]) + (f" … {names[-1]}" if len(names) > 6 else "")
        together = group.sweep.together
        screen.line(f"sweep      {len(names)} dictionaries, {together} at once at most: {shown}")
        for line in training_lines(first, *largest):
            screen.line(line)
        check_disk(first, needed)


def _steps(
    groups: Sequence[Swept], errors: dict[tuple[str, str], str], screen: Screen
) -> Iterator[Step]:
    """What is done for each run, in order; `errors` gets the dictionaries that diverged."""
    for group in groups:
        first, url = group.dictionaries[0], group.url
        prefix = "" if len(groups) == 1 else f"{url.rpartition('/')[2]}: "
        for name in ("corpus", "harvest"):
            yield Step(f"{prefix}{name}", name, first)
        if stage.units(group).plan.num_units:
            yield Step(f"{prefix}sweep", "sweep", group)
            facts = Run(url).manifest(f"{stage.SWEEPS}/{group.sweep.name}").facts
            errors |= {(url, name): error for name, error in facts["errors"].items()}
        else:
            screen.line("sweep     up to date")
        for config in group.dictionaries if group.sweep.evaluate else ():
            name = config.dictionary.name
            if (url, name) not in errors and "evaluate" in stages_of(config):
                yield Step(f"{prefix}evaluate {name}", "evaluate", config, subject=name)
