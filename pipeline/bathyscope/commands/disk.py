"""Disk that a run takes, and whether it is there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from bathyscope.commands.progress import size
from bathyscope.config import Config
from bathyscope.errors import DiskSpaceError
from bathyscope.stages.harvest_layout import lay_out_rows
from bathyscope.stages.hook_columns import num_latents
from bathyscope.stages.inputs import is_of_images
from bathyscope.stages.model import ModelPlan
from bathyscope.stores.objects import local_path

LATENT_BYTES = 6
"""Of a latent of a row on disk: an index of four bytes and a value of two."""
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

    A corpus without a limit cannot be estimated; its tokens, or images, count as zero.
    """
    data, shape = config.data, model.shape
    images = is_of_images(config)
    positions = 1 if images else data.sequence_length
    items = (data.train_tokens + data.held_out_tokens) / positions
    if images:
        items = float(data.train_images + data.held_out_images)
    place = config.hooks.points.index(config.hook)
    width, rows = shape.widths[place], int(items * (shape.positions[place] or positions))
    latents = num_latents(config, width)
    _, layout = lay_out_rows(config, shape, int(items))
    per_item = sum(a.row_bytes * (a.rows_per_item or positions) for a in layout.arrays)
    return Estimate(
        activations=int(items * per_item),
        latents=LATENT_BYTES * rows * config.dictionary.k,
        dictionary=4 * 2 * latents * width,
        # Corpus arrays, states of describe while it runs, tables and pages.
        other=int(items * (3 * data.image_size**2 if images else 13 * positions))
        + latents * 30_000,
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
