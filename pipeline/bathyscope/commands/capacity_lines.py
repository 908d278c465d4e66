"""A capacity for a person, a line for each thing that could go wrong."""

from __future__ import annotations

from bathyscope.commands.capacity import Capacity, gpus_of
from bathyscope.commands.progress import duration, millions, size
from bathyscope.config import Config, HardwareConfig
from bathyscope.models.replicas import ACCELERATE, ReplicaShape
from bathyscope.stages.harvest_layout import ring_bytes
from bathyscope.stages.model import ModelPlan

SHORT_S, LONG_S = 30.0, 120.0
"""A unit should take no less and no longer: see `store.unit_tokens`."""


def capacity_lines(config: Config, model: ModelPlan, found: Capacity) -> list[str]:
    """What is needed, where it goes, how fast it is, and the settings that say so."""
    lines = [_needs(model, found), _rows(config, found), _hardware(config.hardware)]
    replica = found.replica
    if found.refusal is not None:
        return [*lines, f"refused    {found.refusal}"]
    if replica is not None:
        lines.append(_replica(config, replica, found))
    lines += [*_speed(config.hardware, found), *_units(found), _memory(config, found)]
    if replica is not None:
        lines.append(_settings(replica, found))
    return lines


def _needs(model: ModelPlan, found: Capacity) -> str:
    needs, blocks = found.needs, len(found.needs.blocks)
    active = sum(needs.active_blocks) + needs.before_blocks
    experts = "" if active == needs.needed else f" ({millions(active)} of them for one token)"
    return (
        f"needs      blocks 0 to {blocks - 1} of {model.shape.num_layers}: "
        f"{millions(needs.needed)} of {millions(needs.total)} parameters{experts}, "
        f"{size(found.weight_bytes)} in {model.dtype_name}"
    )


def _rows(config: Config, found: Capacity) -> str:
    total = f"; {size(found.tokens * found.bytes_per_token)} in all" if found.tokens else ""
    points = len(config.hooks.points)
    return (
        f"rows       {size(found.bytes_per_token)} per token, "
        f"{size(found.bytes_per_token / points)} per hook point{total}"
    )


def _hardware(hardware: HardwareConfig) -> str:
    gpus = gpus_of(hardware)
    if gpus is None:
        return f"hardware   {hardware.name}: no GPU; speed is planned for GPUs only"
    flops = (
        f"{hardware.gpu_flops / 1e12:g} TFLOP/s reached" if hardware.gpu_flops else "speed unknown"
    )
    write = (
        f", {size(hardware.write_bytes_per_s)}/s written by a node"
        if hardware.write_bytes_per_s
        else ""
    )
    return (
        f"hardware   {hardware.name}: {gpus.nodes} node(s) of {gpus.per_node} GPUs of "
        f"{size(gpus.num_bytes)}, {size(gpus.reserved_bytes)} of it kept free; {flops}{write}"
    )


def _replica(config: Config, replica: ReplicaShape, found: Capacity) -> str:
    per_node = gpus_of(config.hardware)
    assert per_node is not None
    nodes = -(-replica.gpus // per_node.per_node)
    blocks = sorted({min(replica.blocks), max(replica.blocks)})
    return (
        f"replica    {replica.kind}: {replica.gpus} GPU(s) on {nodes} node(s), "
        f"{' to '.join(map(str, blocks))} blocks each; the fullest holds "
        f"{size(max(replica.weight_bytes))} of weights and {size(replica.working_bytes)} besides; "
        f"{found.replicas} replica(s) on {found.replicas * replica.gpus} of {per_node.total} GPUs"
    )


def _speed(hardware: HardwareConfig, found: Capacity) -> list[str]:
    rate, replica = found.model_tokens_per_s, found.replica
    if rate is None or replica is None:
        return []
    lines = [
        f"model      {rate:,.0f} tokens/s: {found.flops_per_token / 1e9:,.1f} GFLOP per token, "
        f"GPUs {100 * replica.balance:.0f} % balanced"
    ]
    wanted = rate * found.bytes_per_token
    if found.disk_tokens_per_s is not None:
        slower = "; SLOWER than the model" if found.disk_tokens_per_s < rate else ""
        lines.append(
            f"writing    {size(wanted)}/s to keep up, {size(wanted / hardware.nodes)}/s by each "
            f"node, which can {size(hardware.write_bytes_per_s or 0)}/s{slower}"
        )
    if found.seconds is not None:
        lines.append(
            f"time       {duration(found.seconds)}, {found.gpu_hours:,.0f} GPU-hours; without "
            "loading and failures"
        )
    return lines


def _units(found: Capacity) -> list[str]:
    seconds = found.unit_seconds
    long = "" if seconds is None else f", {seconds:.1f} s each"
    if seconds is not None and not SHORT_S <= seconds <= LONG_S and found.units > 8:
        fit = _round(found.unit_tokens * 60 / seconds)
        long += f"; store.unit_tokens={fit} makes them a minute long"
    return [
        f"units      {found.units:,} of {found.unit_tokens:,} tokens{long}",
        f"objects    {found.shards:,} shards of {size(found.shard_bytes)} at most, "
        f"{-(-found.units // 1000):,} pack(s) of receipts",
    ]


def _memory(config: Config, found: Capacity) -> str:
    ring = ring_bytes(config, found.segment.arrays)
    kind = "pinned" if found.replica is not None else "host"
    return (
        f"memory     {size(ring)} of {kind} memory per worker for rows on their way; weights are "
        "read a few tensors at a time"
    )


def _settings(replica: ReplicaShape, found: Capacity) -> str:
    spread = " model.device_map=balanced" * (replica.kind == ACCELERATE and replica.gpus > 1)
    return (
        f"settings   cluster.replica={replica.kind} cluster.workers={found.replicas} "
        f"cluster.gpus_per_worker={replica.gpus}{spread}"
    )


def _round(count: float) -> int:
    """Two digits are enough for a suggestion."""
    digits = len(str(int(count))) - 2
    return int(round(count, -digits)) if digits > 0 else int(count)
