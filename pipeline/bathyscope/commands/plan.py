"""plan: what a run would do and need, from the configuration alone, before any work."""

from __future__ import annotations

import os

import torch

from bathyscope.commands.capacity import Capacity, capacity
from bathyscope.commands.capacity_lines import capacity_lines
from bathyscope.commands.disk import LATENT_BYTES, Estimate, estimate
from bathyscope.commands.progress import millions, size
from bathyscope.commands.training_plan import training_footprint, training_lines, training_refusal
from bathyscope.config import Config
from bathyscope.config.ranges import collapsed
from bathyscope.models.families import family_of
from bathyscope.models.hook_points import layers_needed
from bathyscope.stages.corpus import facts_for_plan
from bathyscope.stages.hook_columns import num_latents
from bathyscope.stages.inputs import is_of_images
from bathyscope.stages.model import ModelPlan, plan_model
from bathyscope.values import Json


def lines(config: Config, model: ModelPlan, needed: Estimate) -> list[str]:
    """The plan for a person, one line each."""
    shape = model.shape
    kinds: dict[str, list[str]] = {}
    for name, width, p in zip(config.hooks.points, shape.widths, shape.positions, strict=True):
        kinds.setdefault(f"d {width}" if p is None else f"{p} rows of d {width}", []).append(name)
    hooks = ", ".join(f"{', '.join(collapsed(of))} ({kind})" for kind, of in kinds.items())
    widths = dict(zip(config.hooks.points, shape.widths, strict=True))
    images = is_of_images(config)
    items = (
        f"images of {config.data.image_size} pixels"
        if images
        else (f"sequences of {config.data.sequence_length}")
    )
    layers = layers_needed(shape.hooks)
    end = f"the forward stops after layer {layers[1] - 1}" if layers else "the whole model is run"
    return [
        f"run        {config.url}",
        f"model      {model.name}: {millions(shape.num_parameters)} parameters, "
        f"{shape.num_layers} layers",
        f"hooks      {hooks}; {end}",
        f"dtype      {model.dtype_name}: {model.dtype_reason}",
        f"corpus     {facts_for_plan(config)}, {items}",
        _dictionary(config, num_latents(config, widths[config.hook])),
        *training_lines(config, training_footprint(config, widths)),
        f"disk       {size(needed.total)}: {size(needed.activations)} of activations",
        # Of a plan for other hardware a line of its own says what it is.
        *([f"devices    {_devices(config)}"] if config.hardware.gpus_per_node is None else []),
    ]


def plan(config: Config) -> Json:
    """The plan as figures, for other programs, and as lines; `refusal` says why it cannot be run.

    With `model.architecture` neither a hub nor a checkpoint is asked.
    """
    model = plan_model(config)
    needed = estimate(config, model)
    told, figures = [*lines(config, model, needed), _latents(config, needed)], {}
    refusal = None
    if is_of_images(config):
        told.append("needs      the whole model: capacities are planned for language models only")
    elif family_of(model.hf) is None:
        told.append("needs      unknown: the model is in no family, so its blocks are unknown")
    else:
        found = capacity(config, model)
        told += capacity_lines(config, model, found)
        refusal, figures = found.refusal, _figures(found)
    widths = dict(zip(config.hooks.points, model.shape.widths, strict=True))
    training = training_footprint(config, widths)
    return {
        "model": model.name,
        "parameters": model.shape.num_parameters,
        "hooks": widths,
        "bytes": {**vars(needed), "total": needed.total},
        "training_bytes": {**training._asdict(), "total": training.total},
        "training_refusal": training_refusal(config, training),
        **figures,
        "refusal": refusal,
        "lines": told,
    }


def _figures(found: Capacity) -> Json:
    replica = found.replica
    return {
        "weight_bytes": found.weight_bytes,
        "bytes_per_token": found.bytes_per_token,
        "flops_per_token": found.flops_per_token,
        "gpus_per_replica": replica.gpus if replica else None,
        "replicas": found.replicas,
        "tokens_per_s": found.tokens_per_s,
        "seconds": found.seconds,
        "gpu_hours": found.gpu_hours,
        "units": found.units,
        "shards": found.shards,
    }


def _dictionary(config: Config, latents: int) -> str:
    chosen = config.dictionary
    where = ", ".join(config.inputs)
    if config.outputs != config.inputs:
        where += f" to {', '.join(config.outputs)}"
    return (
        f"dictionary {chosen.name}: {chosen.activation} {chosen.kind.replace('_', ' ')}, "
        f"{latents:,} latents, k {chosen.k}, on {where}"
    )


def _latents(config: Config, needed: Estimate) -> str:
    """What latents of rows take, which a run keeps and nights need not."""
    kept, share = config.nightly.keep_latents, config.nightly.sample_share
    nights = {
        "none": "none of it",
        "sample": f"{share:g} of the units, {size(share * needed.latents)}",
        "all": "all of it",
    }[kept]
    return (
        f"latents    {size(needed.latents)}: {size(LATENT_BYTES * config.dictionary.k)} per row "
        f"with an index and a value for each of k {config.dictionary.k}; nights keep {nights} "
        f"(nightly.keep_latents={kept})"
    )


def _devices(config: Config) -> str:
    cluster = config.cluster
    threads = cluster.threads or max((os.cpu_count() or 1) // cluster.workers, 1)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    where = {"inline": "in this process", "local": "Ray on this machine"}.get(
        cluster.kind, f"Ray at {cluster.address}"
    )
    return f"{device}, {where}, {cluster.workers} worker(s) of {threads} threads"
