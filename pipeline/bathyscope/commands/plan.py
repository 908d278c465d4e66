"""plan: what a run would do and need, from the configuration alone, before any work."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from bathyscope.commands.progress import size
from bathyscope.config import Config
from bathyscope.errors import DiskSpaceError
from bathyscope.stages.corpus import facts_for_plan
from bathyscope.stages.model import ModelFacts, describe_model
from bathyscope.stages.train import num_latents
from bathyscope.stores.objects import local_path
from bathyscope.values import Json

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


def estimate(config: Config, model: ModelFacts) -> Estimate:
    """Bytes that the artifacts of a run take.

    A corpus without a limit on its tokens cannot be estimated; its tokens count as zero.
    """
    tokens = config.data.train_tokens + config.data.held_out_tokens
    width = dict(zip(config.hooks.points, model.shape.widths, strict=True))[config.hook]
    latents = num_latents(config, width)
    return Estimate(
        activations=2 * tokens * sum(model.shape.widths),
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


def lines(config: Config, model: ModelFacts, needed: Estimate) -> list[str]:
    """The plan for a person, one line each."""
    shape = model.shape
    hooks = ", ".join(
        f"{name} (d {width})" for name, width in zip(config.hooks.points, shape.widths, strict=True)
    )
    width = dict(zip(config.hooks.points, shape.widths, strict=True))[config.hook]
    last = max((hook.layer or 0 for hook in shape.hooks), default=0)
    return [
        f"run        {config.url}",
        f"model      {model.name}: {shape.num_parameters / 1e6:,.1f} M parameters, "
        f"{shape.num_layers} layers",
        f"hooks      {hooks}; the forward stops after layer {last}",
        f"dtype      {model.dtype_name}: {model.dtype_reason}",
        f"corpus     {facts_for_plan(config.data)}, sequences of {config.data.sequence_length}",
        f"dictionary {config.dictionary.name}: {config.dictionary.kind}, "
        f"{num_latents(config, width):,} latents, k {config.dictionary.k}, on {config.hook}",
        f"disk       {size(needed.total)}: {size(needed.activations)} of activations",
        f"devices    {_devices(config)}",
    ]


def plan(config: Config) -> Json:
    """The plan as figures, for other programs."""
    model = describe_model(config)
    needed = estimate(config, model)
    return {
        "model": model.name,
        "parameters": model.shape.num_parameters,
        "hooks": dict(zip(config.hooks.points, model.shape.widths, strict=True)),
        "bytes": {**vars(needed), "total": needed.total},
        "lines": lines(config, model, needed),
    }


def _devices(config: Config) -> str:
    cluster = config.cluster
    threads = cluster.threads or max((os.cpu_count() or 1) // cluster.workers, 1)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    where = {"inline": "in this process", "local": "Ray on this machine"}.get(
        cluster.kind, f"Ray at {cluster.address}"
    )
    return f"{device}, {where}, {cluster.workers} worker(s) of {threads} threads"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.absolute().parent
    return path


def _used(path: Path) -> int:
    files = path.rglob("*") if path.exists() else []
    return sum(file.stat().st_size for file in files if file.is_file())
