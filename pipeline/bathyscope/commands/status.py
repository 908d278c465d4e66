"""status: how far a run is, how fast it goes, what went wrong; read from the run alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence

from bathyscope.commands.progress import duration
from bathyscope.config import Config
from bathyscope.errors import MissingArtifact
from bathyscope.jobs.events import read_events
from bathyscope.runs.run import NIGHTS, Run
from bathyscope.runs.status import WITHIN, ArtifactStatus, at, statuses
from bathyscope.stores.objects import Objects, local_path
from bathyscope.values import Json

_TOLD = ("failed", "note")
_WIDTH = 34


def status(
    config: Config, say: Callable[[str], None], *, clock: Callable[[], float] = time.time
) -> None:
    """Print it. Changes nothing, and needs neither the process nor the machine that works on it.

    Raises `MissingArtifact` where there is no run.
    """
    path = local_path(config.url)
    if path is not None and not path.is_dir():
        raise MissingArtifact(f"There is no folder {config.url}. Give the folder of a run.")
    objects = Objects(config.url)
    found, now = statuses(objects), clock()
    events = list(read_events(objects))
    for line in _head(objects, events, now):
        say(line)
    for artifact in found:
        if artifact.complete and _folder_of(artifact):
            continue
        say(_line(artifact))
        for line in _details(artifact, config.status.slow, now):
            say(f"  {line}")
    for folder in WITHIN:
        inner = [artifact for artifact in found if _folder_of(artifact) == folder]
        if inner:
            complete = sum(artifact.complete for artifact in inner)
            say(f"{folder:{_WIDTH}s} {complete} of {len(inner)} artifacts complete")
    told = [event for event in events if event["event"] in _TOLD][-config.status.errors :]
    for event in told if config.status.errors else []:
        text = event.get("error") or event.get("text")
        say(f"{event['at'][:19]}  {event['event']:6s} {event.get('step', '')}: {text}")


def _folder_of(artifact: ArtifactStatus) -> str | None:
    """The folder of runs within the run that it lies in."""
    folder = artifact.name.partition("/")[0]
    return folder if folder in WITHIN else None


def _head(objects: Objects, events: Sequence[Json], now: float) -> Iterator[str]:
    """What a person asks first: whether it is alive, and what it is doing."""
    if objects.children(NIGHTS):
        yield from _nights(objects, now)
    if not events:
        yield "events     none: this run is of a version that wrote none, or has not begun"
        return
    last = events[-1]
    ago = duration(max(now - at(last["at"]), 0.0))
    doing = last.get("step", "")
    if last["event"] == "progress":
        doing = f"{doing}, {last['done']:g} units done {last.get('text', '')}".rstrip()
    yield f"last sign  {ago} ago: {last['event']} {doing}"


def _nights(objects: Objects, now: float) -> Iterator[str]:
    folder = objects.at(NIGHTS)
    if folder.exists("heartbeat.json"):
        beat = json.loads(folder.get("heartbeat.json"))
        ago = duration(max(now - at(beat["at"]), 0.0))
        yield f"heartbeat  {ago} ago, after night {beat['night']}: {beat['told']}"
    try:
        facts = Run(objects.url).night()
        yield f"night      {facts['night']}, {facts['finished']}: {facts['told']}"
    except MissingArtifact:
        yield "night      none is complete"


def _line(found: ArtifactStatus) -> str:
    name = f"{found.name:{_WIDTH}s}"
    if found.complete:
        return f"{name} complete"
    share = 100 * found.done / max(found.total, 1)
    rate, left = found.rate(), found.seconds_left()
    told = ""
    if rate is not None and left is not None:
        told = f"  {60 * rate:.3g} units/min  eta {duration(left)}"
    return f"{name} {found.done} of {found.total} units, {share:.0f} %{told}"


def _details(found: ArtifactStatus, slow: int, now: float) -> Iterator[str]:
    for lease in found.held:
        left = lease.until - now
        state = f"{duration(left)} left" if left > 0 else f"over for {duration(-left)}"
        yield (
            f"unit {lease.unit} is held by process {lease.holder.pid} on {lease.holder.host}, "
            f"attempt {lease.attempt}; its lease: {state}"
        )
    for unit in found.slowest(slow):
        yield f"unit {unit.unit} took {duration(unit.seconds)} on {unit.host}"
