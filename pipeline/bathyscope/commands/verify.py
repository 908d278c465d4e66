"""verify: what is in a run, compared with what its receipts and manifests say."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from bathyscope.commands.progress import size
from bathyscope.config import Config
from bathyscope.runs.verify import Settings, Verified, overrides_of
from bathyscope.runs.verify import verify as verify_run
from bathyscope.stores.manifests import latest
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import redo_command
from bathyscope.stores.verify import Checked

_TOLD_EVERY_S = 10.0
_LISTED = 20

Say = Callable[[str], None]


def verify(config: Config, say: Say) -> bool:
    """Check a run, name every fault and its repair; whether there was none."""
    run = Objects(config.url)
    settings = Settings(config.verify.share, config.verify.seed, config.verify.threads)
    total = Checked()
    repairs: list[str] = []
    for found in verify_run(run, settings, tell=_Progress(say).tell):
        say(_line(found))
        faults = found.checked.faults
        for fault in faults[:_LISTED]:
            say(f"  {fault.what}")
        if len(faults) > _LISTED:
            say(f"  and {len(faults) - _LISTED} more")
        if faults:
            repairs += _repairs(run, found)
        total.add(found.checked)
    say(_conclusion(total))
    for line in dict.fromkeys(repairs):
        say(f"  {line}")
    return not total.faults


def _line(found: Verified) -> str:
    c = found.checked
    state = "" if found.complete else ", not complete"
    left = f", {_count(c.leftovers, 'leftover object')}" if c.leftovers else ""
    read = f"{size(c.read_bytes)} of {_count(c.read_shards, 'shard')} read" if c.read_shards else ""
    parts = [_count(c.units, "unit"), _count(c.shards, "shard") if c.shards else "", read]
    verdict = _count(len(c.faults), "fault") if c.faults else "sound"
    return f"{found.artifact:24s} {', '.join(p for p in parts if p)}{state}{left}: {verdict}"


def _conclusion(total: Checked) -> str:
    rate = f" at {total.read_bytes / total.seconds / 1e9:.2f} GB/s" if total.read_bytes else ""
    said = f"{_count(total.units, 'unit')}, {size(total.read_bytes)} read{rate}"
    if not total.faults:
        return f"{said}: no fault"
    return f"{said}: {_count(len(total.faults), 'fault')}. Nothing was changed. To repair:"


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"


def _repairs(run: Objects, found: Verified) -> list[str]:
    """Commands that void what is damaged, then the one that does it again."""
    objects = run.at(found.artifact)
    lines = []
    faults = found.checked.faults
    for segment in sorted({f.segment for f in faults if f.redo}):
        here = [f for f in faults if f.segment == segment]
        units = sorted({u for f in here for u in f.units})
        packs = sorted({p for f in here for p in f.packs})
        lines.append(redo_command(objects.location, segment, units=units, packs=packs))
    if any(f.again for f in faults):
        # What lies outside of segments is made anew as a whole.
        lines.append(_again(run, found, force=any(not f.segment for f in faults)))
    return lines


def _again(run: Objects, found: Verified, *, force: bool) -> str:
    words = {word.partition("=")[0]: word for word in overrides_of(run)}
    words["url"] = f"url={run.location}"
    _, _, name = found.artifact.partition("/")
    if name:
        words["dictionary.name"] = f"dictionary.name={name}"
    if found.stage == "fine_tune":
        words["fine_tune.name"] = f"fine_tune.name={name}"
        words["dictionary.name"] = f"dictionary.name={_source(run, found.artifact)}"
    words.pop("force", None)
    return shlex.join(
        [
            "bathyscope",
            found.stage.replace("_", "-"),
            *words.values(),
            *(["force=true"] if force else []),
        ]
    )


def _source(run: Objects, artifact: str) -> str:
    """The dictionary that a fine-tuned one was made of."""
    manifest = latest(run.at(artifact))
    return "…" if manifest is None else str(manifest.identity["fine_tuned_from"]["name"])


class _Progress:
    """A line every ten seconds while bytes are read."""

    def __init__(self, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._started = self._told = clock()
        self._bytes = 0

    def tell(self, artifact: str, count: int) -> None:
        """Count bytes that were read."""
        self._bytes += count
        now = self._clock()
        if now - self._told >= _TOLD_EVERY_S:
            self._told = now
            rate = self._bytes / (now - self._started) / 1e9
            self._say(f"  reading {artifact}: {size(self._bytes)} at {rate:.2f} GB/s")
