"""Disk that a run takes, and whether it is there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from bathyscope.commands.progress import size
from bathyscope.config import Config
from bathyscope.errors import DiskSpaceError
from bathyscope.stages.harvest import lay_out_rows
from bathyscope.stages.model import ModelPlan
from bathyscope.stages.train import num_latents
from bathyscope.stores.objects import local_path

_SPARE_BYTES = 200 * 2**20


@dataclass(frozen=True)
class Estimate:
    """Disk that a run will take, part by part, in bytes."""

    activations: int
    latents: int
    dictionary: int
    other: int

    @property
    def total(self) -> int:
        """All parts."""
        return self.activations + self.latents + self.dictionary + self.other


def estimate(config: Config, model: ModelPlan) -> Estimate:
    """Bytes that the artifacts of a run take.

    A corpus without a limit on its tokens cannot be estimated; its tokens count as zero.
    """
    tokens = config.data.train_tokens + config.data.held_out_tokens
    width = dict(zip(config.hooks.points, model.shape.widths, strict=True))[config.hook]
    latents = num_latents(config, width)
    _, layout = lay_out_rows(config, model.shape, tokens // config.data.sequence_length)
    return Estimate(
        activations=tokens * sum(a.row_bytes for a in layout.arrays),
        latents=6 * tokens * config.dictionary.k,
        dictionary=4 * 2 * latents * width,
        # Corpus arrays, states of describe while it runs, tables and pages.
        other=13 * tokens + latents * 30_000,
    )


def check_disk(config: Config, needed: Estimate, *, free_bytes: int | None = None) -> None:
    """Raise `DiskSpaceError` when the disk has less room than what is not there yet needs.

    Object stores are not asked: they have no end.
    """
    path = local_path(config.url)
    if path is None:
        return
    free = shutil.disk_usage(_existing(path)).free if free_bytes is None else free_bytes
    wanted = max(needed.total - _used(path), 0) + _SPARE_BYTES
    if free < wanted:
        raise DiskSpaceError(
            f"{path} has {size(free)} free; this run needs {size(wanted)} more: "
            f"{size(needed.activations)} of activations, {size(needed.latents)} of latents, "
            f"{size(needed.dictionary)} of weights and {size(needed.other)} besides. Free some "
            "disk, choose another url, or a smaller data.train_tokens."
        )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.absolute().parent
    return path


def _used(path: Path) -> int:
    files = path.rglob("*") if path.exists() else []
    return sum(file.stat().st_size for file in files if file.is_file())
