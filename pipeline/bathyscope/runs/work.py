"""The work of one stage on one artifact: begin, resume or refuse; publish when it is done."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from bathyscope.errors import StoreError
from bathyscope.runs.identity import digest, refuse, same
from bathyscope.stores.manifests import COMPLETE, OPEN, Manifest, Segment, every, latest, publish
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.rows import check_units
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.units import create_segment
from bathyscope.values import Json, UnitPlan, Units


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
        return sum(
            a.shard_bytes * (self.segment.capacity(a.name) // a.shard_rows) for a in self.arrays
        )


@dataclass(frozen=True)
class Begun:
    """An artifact whose work may go on."""

    work: Work
    objects: Objects
    """The artifact's folder."""
    complete: bool
    """Whether nothing is left to do."""
    remaining: Units


def begin(run: Objects, work: Work, *, force: bool) -> Begun:
    """Open the artifact for its work: complete, to be resumed, or new.

    A complete artifact is taken up again when readers would miss units of it, because their
    receipts were deleted or set aside. Raises `IdentityMismatch`, which names the differing
    fields, when something else is there and `force` is false.
    """
    objects = run.at(work.artifact)
    newest = _newest(objects, work, force=force)
    if newest is None:
        publish(objects, Manifest(OPEN, work.identity, (work.segment,), work.facts))
    elif newest.state == COMPLETE:
        holes = {s.name for s in newest.segments if s.arrays and _remaining(objects, s)}
        if not holes:
            return Begun(work, objects, complete=True, remaining=Units(work.plan, range(0)))
        if work.segment.name not in {s.name for s in newest.segments}:
            # Its units wrote other segments, so their receipts vouch for rows that are gone.
            objects.delete_folder(f"receipts/{work.segment.name}")
    create_segment(objects, work.segment)
    return Begun(work, objects, complete=False, remaining=_remaining(objects, work.segment))


def is_complete(run: Objects, work: Work, *, force: bool) -> bool:
    """Whether the artifact is there and complete; for one without arrays. Changes nothing.

    Raises `IdentityMismatch` as `begin` does.
    """
    newest = _newest(run.at(work.artifact), work, force=force)
    return newest is not None and newest.state == COMPLETE


def finish(begun: Begun, facts: Json, *, segments: tuple[Segment, ...] | None = None) -> Manifest:
    """Publish the complete manifest and remove segments that it replaced.

    `segments` are what readers find; the segment of the work itself when it is None. Raises
    `StoreError` when units are not done, or when another run has begun to replace the artifact.
    """
    work, objects = begun.work, begun.objects
    _check_finished(begun)
    kept = (work.segment,) if segments is None else segments
    published = publish(objects, Manifest(COMPLETE, work.identity, kept, {**work.facts, **facts}))
    objects.delete_folder(f"leases/{work.segment.name}")
    names = {work.segment.name, *(s.name for s in kept)}
    for old in {s.name for m in every(objects) for s in m.segments} - names:
        _remove_segment(objects, old)
    for folder in objects.children():
        for name in names:
            objects.sweep(f"{folder}/{name}")
    return published


def _newest(objects: Objects, work: Work, *, force: bool) -> Manifest | None:
    """The newest manifest of this work; None where there is none, or it may be replaced."""
    newest = latest(objects)
    if newest is None or same(newest.identity, work.identity):
        return newest
    if not force:
        raise refuse(objects.location, newest.identity, work.identity, work.hint)
    return None


def _remaining(objects: Objects, segment: Segment) -> Units:
    done = Receipts(objects, segment.name).units()
    check_units(done, objects, segment)
    missing = np.ones(segment.plan.num_units, dtype=bool)
    missing[done] = False
    return Units(segment.plan, np.flatnonzero(missing))


def _check_finished(begun: Begun) -> None:
    work, objects = begun.work, begun.objects
    newest = latest(objects)
    if newest is not None and not same(newest.identity, work.identity):
        raise StoreError(
            f"Another run has begun to replace {objects.location} while this one was working. "
            "Nothing was published. Let it finish, or stop it and run this one with force=true."
        )
    missing = _remaining(objects, work.segment)
    if missing:
        raise StoreError(
            f"{len(missing)} of {work.plan.num_units} {work.unit_name} of {objects.location} have "
            f"no receipt, the first is {missing[0].index}. Nothing was published. Run the stage "
            "again: only these are done."
        )


def _remove_segment(objects: Objects, name: str) -> None:
    # Receipts go first: shards without a receipt are nothing, receipts without shards a fault.
    folders = sorted(objects.children(), key=lambda folder: folder != "receipts")
    for folder in (*folders, ""):
        _remove_named(objects, folder, name)


def _remove_named(objects: Objects, folder: str, segment: str) -> None:
    for file in objects.files(folder):
        if _belongs(file, segment):
            objects.delete(f"{folder}/{file}")
    children = objects.children(folder)
    old = [child for child in children if _belongs(child, segment)]
    for child in old:
        objects.delete_folder(f"{folder}/{child}")
        objects.sweep(f"{folder}/{child}")
    if old and len(old) == len(children):
        # Nothing but the metadata of an empty Zarr group would stay.
        objects.delete_folder(folder)
        objects.sweep(folder)


def _belongs(entry: str, segment: str) -> bool:
    """Whether a file or folder is named after a segment or one derived from it."""
    return entry == segment or segment in re.split(r"[.-]", entry)
