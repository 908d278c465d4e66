"""How far a run is, from what lies in it alone: manifests, receipts, leases and the event log.

Whoever works on it may be on another machine: nothing is asked of a process or a cluster.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bathyscope.errors import BathyscopeError, MissingArtifact
from bathyscope.runs.verify import artifacts
from bathyscope.stores.leases import Lease, Leases
from bathyscope.stores.manifests import COMPLETE, Manifest, Segment, latest
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.values import Receipt

MOST_RECEIPTS = 512
"""The last ones, which tell rate and slow units."""
WITHIN = ("models", "transcoders", "slices", "extractions")
"""Folders of runs within a run."""
MOST_WITHIN = 50
"""Runs of each of these that are looked into, the last by name: a team's nights are many."""


@dataclass(frozen=True)
class UnitTime:
    """A unit that is done: when, by whom, and how long it took."""

    unit: int
    at: float
    seconds: float
    host: str
    attempt: int


@dataclass(frozen=True)
class ArtifactStatus:
    """One artifact, and how far it is."""

    name: str
    stage: str
    complete: bool
    done: int
    total: int
    unit_name: str = "units"
    last: tuple[UnitTime, ...] = ()
    """Of the newest receipts, in the order of time; only of what is under way."""
    held: tuple[Lease, ...] = ()
    """Units that somebody has; only of what is under way."""

    def rate(self) -> float | None:
        """Units per second over the newest receipts; None where fewer than three tell it."""
        if len(self.last) < 3:
            return None
        seconds = self.last[-1].at - self.last[0].at
        return (len(self.last) - 1) / seconds if seconds > 0 else None

    def seconds_left(self) -> float | None:
        """At that rate; None where it is not known."""
        rate = self.rate()
        return None if rate is None else (self.total - self.done) / rate

    def slowest(self, most: int) -> list[UnitTime]:
        """Of the newest, those that took at least twice the median, the longest first."""
        times = [u.seconds for u in self.last if u.seconds > 0]
        if len(times) < 3:
            return []
        median = float(np.median(times))
        slow = [u for u in self.last if u.seconds >= 2 * median]
        return sorted(slow, key=lambda u: -u.seconds)[:most]


def statuses(run: Objects) -> list[ArtifactStatus]:
    """Every artifact of a run, sorted by name; those of runs within it too.

    Raises `MissingArtifact` for a folder that holds none.
    """
    found = list(_statuses(run, ""))
    for folder in WITHIN:
        for prefix in list(_runs_below(run, folder))[-MOST_WITHIN:]:
            found += _statuses(run.at(prefix), f"{prefix}/")
    if not found:
        raise MissingArtifact(
            f"{run.location} holds no artifact. Give the folder of a run, as in "
            "`bathyscope status runs/demo`."
        )
    return found


def _runs_below(run: Objects, folder: str) -> Iterator[str]:
    """Runs in a folder, or in the folders in it."""
    for name in run.children(folder):
        inner = run.children(f"{folder}/{name}")
        if any("manifests" in run.children(f"{folder}/{name}/{each}") for each in inner):
            yield f"{folder}/{name}"
        else:
            yield from (f"{folder}/{name}/{each}" for each in inner)


def _statuses(run: Objects, prefix: str) -> Iterator[ArtifactStatus]:
    for name in artifacts(run):
        try:
            manifest = latest(run.at(name))
        except (BathyscopeError, ValueError, KeyError):
            # `bathyscope verify` says what is wrong with it.
            continue
        if manifest is not None:
            yield _status(run.at(name), f"{prefix}{name}", manifest)


def _status(objects: Objects, name: str, manifest: Manifest) -> ArtifactStatus:
    stage = str(manifest.identity.get("stage", name.rsplit("/", 1)[-1]))
    complete = manifest.state == COMPLETE
    total = sum(segment.plan.num_units for segment in manifest.segments)
    if complete:
        return ArtifactStatus(name, stage, True, total, total)
    done, last, held = 0, list[UnitTime](), list[Lease]()
    for segment in manifest.segments:
        receipts = Receipts(objects, segment.name)
        done += len(receipts.units())
        last += _newest(receipts)
        held += _held(objects, segment)
    last.sort(key=lambda unit: unit.at)
    return ArtifactStatus(name, stage, False, done, total, last=tuple(last), held=tuple(held))


def _newest(receipts: Receipts) -> list[UnitTime]:
    """Of receipts that lie by themselves, which are the newest."""
    loose, _ = receipts.listed()
    found = receipts.loose_many(loose[-MOST_RECEIPTS:].tolist())
    return [time for receipt in found if receipt is not None and (time := _time(receipt))]


def _time(receipt: Receipt) -> UnitTime | None:
    """None where the receipt is of a version that did not note it."""
    writer = receipt.writer
    if "at" not in writer:
        return None
    host, attempt = str(writer.get("host", "?")), int(writer.get("attempt", 1))
    return UnitTime(receipt.unit, writer["at"], writer["seconds"], host, attempt)


def _held(objects: Objects, segment: Segment) -> list[Lease]:
    leases = Leases(objects, segment.name)
    folder = f"leases/{segment.name}"
    names: Sequence[str] = [*objects.children(folder), *objects.files(folder)]
    units = sorted({int(name.partition(".")[0]) for name in names})
    current = (leases.current(unit) for unit in units)
    return [lease for lease in current if lease is not None and lease.seconds]


def at(stamp: str) -> float:
    """Seconds since the epoch of a time as records have it."""
    return datetime.datetime.fromisoformat(stamp).timestamp()
