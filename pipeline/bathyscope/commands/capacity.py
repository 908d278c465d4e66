"""capacity: whether a harvest fits some hardware, on how many GPUs, and for how long.

All of it follows from the configuration: the model's dimensions, the layout of the store, and the
stated figures of the hardware. No weight is read, no hub is asked and no GPU is touched.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

from bathyscope.commands.progress import size
from bathyscope.config import Config, HardwareConfig
from bathyscope.models.footprint import Footprint, footprint
from bathyscope.models.hook_points import layers_needed
from bathyscope.models.replicas import (
    ACCELERATE,
    PIPELINE,
    Gpus,
    ReplicaShape,
    shape_of_replica,
    smallest_replica,
    working_bytes,
)
from bathyscope.stages.harvest_layout import lay_out_rows
from bathyscope.stages.model import ModelPlan
from bathyscope.stores.manifests import Segment
from bathyscope.values import HELD_OUT, TRAIN, UnitPlan

_HOUR = 3600.0


@dataclass(frozen=True)
class Capacity:
    """What a harvest needs, and what the hardware makes of it."""

    needs: Footprint
    """Of the blocks up to the last hook point."""
    weight_bytes: int
    """Of these, in the planned dtype."""
    replica: ReplicaShape | None
    """On GPUs; None without any, or where none fits."""
    replicas: int
    """Replicas that work at once."""
    refusal: str | None
    """Why no replica of the kind that was asked for fits, and what would."""
    flops_per_token: float
    tokens: int
    """Training and held-out tokens; 0 where the corpus has no limit."""
    segment: Segment
    """Units and arrays of the store."""
    unit_tokens: int
    model_tokens_per_s: float | None
    """Of all replicas, by the stated speed of the GPUs."""
    disk_tokens_per_s: float | None
    """Of all nodes, by the stated speed of writing."""

    @property
    def bytes_per_token(self) -> float:
        """Of all hook points, as they lie on disk; a row of a whole sequence is shared out."""
        return bytes_per_token(self.segment)

    @property
    def units(self) -> int:
        """Units of work."""
        return self.segment.plan.num_units

    @property
    def shards(self) -> int:
        """Objects that hold rows."""
        return self.units * sum(self.segment.unit_shards(a.name) for a in self.segment.arrays)

    @property
    def shard_bytes(self) -> int:
        """Of the largest one."""
        return max(a.shard_rows * a.row_bytes for a in self.segment.arrays)

    @property
    def tokens_per_s(self) -> float | None:
        """The slower of model and writing; None where nothing is stated."""
        stated = [s for s in (self.model_tokens_per_s, self.disk_tokens_per_s) if s is not None]
        return min(stated) if self.model_tokens_per_s is not None else None

    @property
    def seconds(self) -> float | None:
        """How long the harvest takes."""
        rate = self.tokens_per_s
        return None if rate is None or not self.tokens else self.tokens / rate

    @property
    def gpu_hours(self) -> float | None:
        """Of the GPUs that have work."""
        if self.seconds is None or self.replica is None:
            return None
        return self.seconds / _HOUR * self.replica.gpus * self.replicas

    @property
    def unit_seconds(self) -> float | None:
        """How long a worker takes for one unit."""
        rate = self.tokens_per_s
        return None if rate is None else self.unit_tokens / (rate / self.replicas)


def capacity(config: Config, model: ModelPlan) -> Capacity:
    """What a harvest of this configuration needs, on `config.hardware`.

    Raises `ModelError` for a model of no family, whose blocks are unknown.
    """
    layers = layers_needed(model.shape.hooks)
    needs = footprint(model.hf, None if layers is None else layers[1])
    per_item = config.data.sequence_length
    batch_tokens = config.hooks.batch_items * per_item
    points = len(model.shape.hooks)
    working = working_bytes(model.hf, tokens=batch_tokens, hook_points=points, dtype=model.dtype)
    replica, replicas, refusal = None, 1, None
    gpus = gpus_of(config.hardware)
    if gpus is not None:
        replica = _replica(config, model, needs, gpus, working)
        if replica is None:
            refusal = _refusal(config, model, needs, gpus, working)
        else:
            replicas = gpus.groups(replica.gpus, replica.kind)
            if config.cluster.gpus_per_worker:
                replicas = min(replicas, config.cluster.workers)
    segment = _segment(config, model)
    flops = needs.flops_per_token(per_item)
    return Capacity(
        needs=needs,
        weight_bytes=needs.needed * model.dtype.itemsize,
        replica=replica,
        replicas=replicas,
        refusal=refusal,
        flops_per_token=flops,
        tokens=sum(stop - start for _, start, stop in segment.plan.ranges) * per_item,
        segment=segment,
        unit_tokens=segment.plan.items_per_unit * per_item,
        model_tokens_per_s=_model_speed(config.hardware, replica, replicas, flops),
        disk_tokens_per_s=_disk_speed(config.hardware, segment),
    )


def gpus_of(hardware: HardwareConfig) -> Gpus | None:
    """The GPUs that are stated, or those of this machine where none are; None without any."""
    per_node, num_bytes = hardware.gpus_per_node, hardware.gpu_bytes
    if per_node is None:
        import torch

        per_node = torch.cuda.device_count()
        if per_node and not num_bytes:
            num_bytes = float(torch.cuda.get_device_properties(0).total_memory)
    if not per_node or num_bytes is None:
        return None
    return Gpus(hardware.nodes, per_node, num_bytes, hardware.gpu_reserved_bytes)


def _segment(config: Config, model: ModelPlan) -> Segment:
    """The store of the harvest as it will be, but for what deduplication and packing leave out."""
    data, per_item = config.data, config.data.sequence_length
    train, held_out = (-(-t // per_item) for t in (data.train_tokens, data.held_out_tokens))
    per_unit, layout = lay_out_rows(config, model.shape, train + held_out)
    ranges = ((TRAIN, 0, train), (HELD_OUT, train, train + held_out))
    plan = UnitPlan(ranges, per_unit)
    return Segment("planned", plan, per_item, layout.arrays, layout.rows_per_unit)


def _replica(
    config: Config, model: ModelPlan, needs: Footprint, gpus: Gpus, working: int
) -> ReplicaShape | None:
    kind, asked = config.cluster.replica, config.cluster.gpus_per_worker
    if not asked:
        return smallest_replica(kind, model.hf, needs, gpus, working, model.dtype)
    if not gpus.groups(asked, kind):
        return None
    room = gpus.num_bytes - gpus.reserved_bytes - working
    return shape_of_replica(
        kind, model.hf, needs, gpus=asked, room=room, working_bytes=working, dtype=model.dtype
    )


def _refusal(config: Config, model: ModelPlan, needs: Footprint, gpus: Gpus, working: int) -> str:
    kind, asked = config.cluster.replica, config.cluster.gpus_per_worker
    most = asked or (gpus.per_node if kind == ACCELERATE else gpus.total)
    where = "of one node" if kind == ACCELERATE else f"of {gpus.nodes} nodes"
    weights = model.dtype.itemsize * needs.needed
    return (
        f"No {kind} replica of this model fits: its {len(needs.blocks)} blocks are {size(weights)} "
        f"of weights, each GPU needs {size(working)} to work, and {most} GPUs {where} have "
        f"{size(gpus.num_bytes)} each, {size(gpus.reserved_bytes)} of it kept free. "
        f"What would fit: {'; '.join(_what_would_fit(config, model, needs, gpus, working))}."
    )


def _what_would_fit(
    config: Config, model: ModelPlan, needs: Footprint, gpus: Gpus, working: int
) -> list[str]:
    found = []
    for other in (ACCELERATE, PIPELINE):
        shape = smallest_replica(other, model.hf, needs, gpus, working, model.dtype)
        if shape is not None:
            found.append(
                f"cluster.replica={other} cluster.gpus_per_worker={shape.gpus} "
                f"({size(shape.largest_bytes)} on the fullest GPU)"
            )
    size_now = config.cluster.gpus_per_worker or gpus.per_node
    blocks = _blocks_that_fit(config, model, needs, gpus, size_now, working)
    if blocks:
        found.append(f"hook points up to block {blocks - 1}")
    per_gpu = model.dtype.itemsize * needs.needed / size_now + gpus.reserved_bytes + working
    found.append(f"{size_now} GPUs of {size(1.05 * per_gpu)} each")
    return found


def _blocks_that_fit(
    config: Config, model: ModelPlan, needs: Footprint, gpus: Gpus, size_now: int, working: int
) -> int:
    """The most blocks that so many GPUs hold; 0 where there is not one."""
    room = gpus.num_bytes - gpus.reserved_bytes - working

    def fits(count: int) -> bool:
        cut = replace(needs, blocks=needs.blocks[:count], active_blocks=needs.active_blocks[:count])
        kind = config.cluster.replica
        shape = shape_of_replica(
            kind,
            model.hf,
            cut,
            gpus=size_now,
            room=room,
            working_bytes=working,
            dtype=model.dtype,
        )
        return shape is not None

    # Whole blocks are spread, so the sum of the room is only a bound.
    most = int((size_now * room / model.dtype.itemsize - needs.before_blocks) // max(needs.blocks))
    counts = range(1, min(most, len(needs.blocks) - 1) + 1)
    return bisect_left(counts, True, key=lambda count: not fits(count)) if room > 0 else 0


def _model_speed(
    hardware: HardwareConfig, replica: ReplicaShape | None, replicas: int, flops: float
) -> float | None:
    if replica is None or not hardware.gpu_flops:
        return None
    return hardware.gpu_flops * replica.gpus * replica.balance * replicas / flops


def _disk_speed(hardware: HardwareConfig, segment: Segment) -> float | None:
    if not hardware.write_bytes_per_s:
        return None
    return hardware.nodes * hardware.write_bytes_per_s / bytes_per_token(segment)


def bytes_per_token(segment: Segment) -> float:
    """Bytes on disk for each position of an item, over all hook points."""
    per_item = sum(a.row_bytes * segment.per_item(a.name) for a in segment.arrays)
    return per_item / segment.rows_per_item
