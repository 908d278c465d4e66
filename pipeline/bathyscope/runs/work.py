"""The work of one stage on one artifact: begin, resume or refuse; publish when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field

from bathyscope.runs.identity import digest, refuse
from bathyscope.stores.manifests import COMPLETE, OPEN, Manifest, Segment, every, latest, publish
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.units import create_segment
from bathyscope.values import Json, Unit, UnitPlan


@dataclass(frozen=True)
class Work:
    """What a stage is about to do. Made without doing any of it."""

    stage: str
    artifact: str
    """Folder of the artifact in the run."""
    identity: Json
    plan: UnitPlan
    rows_per_item: int = 1
    arrays: tuple[ArraySpec, ...] = ()
    rows_per_unit: int = 1
    facts: Json = field(default_factory=dict)
    """What the manifest tells readers."""
    unit_name: str = "units"
    hint: str = "Choose another url, or pass force=true to replace it."

    @property
    def segment(self) -> Segment:
        """The segment that the units write, named by the identity."""
        return Segment(
            digest(self.identity), self.plan, self.rows_per_item, self.arrays, self.rows_per_unit
        )

    @property
    def num_bytes(self) -> int:
        """Disk that the arrays will take."""
        return sum(a.shard_bytes * (self.segment.capacity // a.shard_rows) for a in self.arrays)


@dataclass(frozen=True)
class Begun:
    """An artifact whose work may go on."""

    work: Work
    objects: Objects
    """The artifact's folder."""
    complete: bool
    """Whether nothing is left to do."""
    remaining: tuple[Unit, ...]


def begin(run: Objects, work: Work, *, force: bool) -> Begun:
    """Open the artifact for its work: complete, to be resumed, or new.

    Raises `IdentityMismatch`, which names the differing fields, when something else is there
    and `force` is false.
    """
    objects = run.at(work.artifact)
    newest = latest(objects)
    if newest is not None and newest.identity != work.identity and not force:
        raise refuse(objects.location, newest.identity, work.identity, work.hint)
    if newest is not None and newest.identity == work.identity:
        if newest.state == COMPLETE:
            return Begun(work, objects, complete=True, remaining=())
    else:
        publish(objects, Manifest(OPEN, work.identity, (work.segment,), work.facts))
    create_segment(objects, work.segment)
    done = Receipts(objects, work.segment.name).done()
    remaining = tuple(u for u in work.plan.units() if u.index not in done)
    return Begun(work, objects, complete=False, remaining=remaining)


def finish(begun: Begun, facts: Json, *, segments: tuple[Segment, ...] | None = None) -> Manifest:
    """Publish the complete manifest and remove segments that it replaced.

    `segments` are what readers find; the segment of the work itself when it is None.
    """
    work, objects = begun.work, begun.objects
    kept = (work.segment,) if segments is None else segments
    published = publish(objects, Manifest(COMPLETE, work.identity, kept, {**work.facts, **facts}))
    objects.delete_folder(f"leases/{work.segment.name}")
    names = {work.segment.name, *(s.name for s in kept)}
    for old in {s.name for m in every(objects) for s in m.segments} - names:
        _remove_segment(objects, old)
    return published


def _remove_segment(objects: Objects, name: str) -> None:
    # Receipts go first: shards without a receipt are nothing, receipts without shards a fault.
    objects.delete_folder(f"receipts/{name}")
    for folder in objects.children():
        if name in objects.children(folder):
            objects.delete_folder(f"{folder}/{name}")
