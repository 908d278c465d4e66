"""What a training takes of memory against what is free, before it starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.stages.hook_columns import AnyBatches, HookColumns, new_dictionary
from bathyscope.training.footprint import Footprint, check_memory, footprint
from bathyscope.training.grid import Grid

_CGROUPS = Path("/sys/fs/cgroup")
_AHEAD = 2


def check_trainings(
    configs: Sequence[Config], columns: HookColumns, batches: AnyBatches, grid: Grid
) -> None:
    """Raise `ConfigError` where trainings on one stream of batches do not fit this process.

    Processes of one machine share its memory: each is given its part of what is free.
    """
    held = batches.held_bytes + _AHEAD * batches.batch_rows // grid.data * batches.row_bytes
    found = []
    for config in configs:
        with torch.device("meta"):
            dictionary = new_dictionary(config, columns)
        found.append(planned(config, dictionary, grid, reader_bytes=held))
    host = free_host_bytes() // processes_here(configs[0], grid.world)
    if torch.cuda.is_available():
        check_memory(found, int(torch.cuda.mem_get_info()[0]), host_available=host)
    else:
        check_memory(found, host)


def planned(
    config: Config, dictionary: AnyDictionary, grid: Grid, *, reader_bytes: int
) -> Footprint:
    """The footprint of a configured training."""
    settings = config.train
    return footprint(
        dictionary,
        batch_rows=settings.batch_rows,
        grid=grid,
        auxk=settings.auxk_weight > 0,
        clips=settings.clip_norm > 0,
        checkpoints=settings.checkpoint_steps > 0,
        reader_bytes=reader_bytes,
    )


def processes_here(config: Config, world: int) -> int:
    """How many of the processes that train together are on this machine, as far as is known."""
    if world == 1:
        return 1
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    if told.isdecimal():
        return int(told)
    return world if config.cluster.kind == "local" else 1


def free_host_bytes(cgroups: Path = _CGROUPS, groups: Path = Path("/proc/self/cgroup")) -> int:
    """Memory that this process can still take: of the machine, or of its container if less."""
    free = [int(psutil.virtual_memory().available)]
    for folder, names in _limits(cgroups, groups):
        found = [_number(folder / name) for name in names[:2]]
        if found[0] is not None and found[1] is not None:
            # Pages of files are given back when memory is short.
            free.append(max(found[0] - found[1] + _inactive(folder / "memory.stat", names[2]), 0))
    return min(free)


def _limits(cgroups: Path, groups: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """The folders of the groups that this process is in, and how their files are called."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        # No Linux.
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inside = [part for part in path.split("/") if part not in ("", "..")]
        # A limit holds for all that is below; in a container the path may not exist.
        found += [(root.joinpath(*inside[:depth]), names) for depth in range(len(inside) + 1)]
    return found


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _inactive(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)
