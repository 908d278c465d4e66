"""Metrics of a run that Ray exports to Prometheus: what was stored, how far the driver is.

Names, kinds and help are those of `metric_names`. The driver counts what units stored, from what
their receipts say, so that no worker that dies takes a count with it. Only what a worker alone can
know comes from there: its queue, and for how long its model waited.
"""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

import ray
from ray.util.metrics import Counter, Gauge

from bathyscope.jobs.metric_names import (
    BYTES,
    COUNTER,
    HOST,
    QUEUE_DEPTH,
    RETRIES,
    STALL_SECONDS,
    TOKENS,
    UNITS_DONE,
    UNITS_TOTAL,
    MetricName,
)
from bathyscope.values import Receipt

_LOOK_S = 1.0


class Stored(NamedTuple):
    """What the receipt of a unit says of it, in a few bytes."""

    host: str
    """Where the process that did it is."""
    pid: int
    tokens: int
    bytes: int


def stored(receipt: Receipt) -> Stored:
    """What is counted of a unit: nothing of one that has no shards."""
    writer = receipt.writer
    return Stored(
        str(writer.get("host", "")),
        int(writer.get("pid", 0)),
        receipt.valid if receipt.shards else 0,
        sum(shard.size_bytes for shard in receipt.shards),
    )


class WorkerMeter:
    """The queue of a worker's writers, and how long its model waits for them.

    It has nothing to say of a stage whose `context` has no ring between the two.
    """

    def __init__(self, url: str, stage: str, context: Any) -> None:
        self._ring, self._writers = getattr(context, "ring", None), None
        self._looking = threading.Lock()
        self._waited_s = self._looked_at = 0.0
        if self._ring is not None:
            self._writers, tags = context.writers, _tags(url, stage)
            self._depth, self._stalls = _made(QUEUE_DEPTH, tags), _made(STALL_SECONDS, tags)

    def look(self) -> None:
        """Every second: shards on their way, and waiting that has come in. For any thread."""
        now = time.monotonic()
        if self._ring is None or now - self._looked_at < _LOOK_S:
            return
        self._look(now)

    def close(self) -> None:
        """The stage is over: nothing waits any more, and its memory is let go."""
        if self._ring is not None:
            self._look(time.monotonic())
            self._depth.set(0)
            self._ring = self._writers = None

    def _look(self, now: float) -> None:
        with self._looking:
            ring, writers = self._ring, self._writers
            if ring is None or writers is None:
                return
            self._looked_at = now
            self._depth.set(writers.waiting)
            waited_s = ring.waited_s
            _add(self._stalls, waited_s - self._waited_s)
            self._waited_s = waited_s


class DriverMeter:
    """How many units of a stage are done, what they stored, and how often one was given out again.

    `url` is the run that the command was given for, `total` the number of units.
    """

    def __init__(self, url: str, stage: str, total: int) -> None:
        tags = _tags(url, stage)
        self._total_units = total
        self._done, self._total = _made(UNITS_DONE, tags), _made(UNITS_TOTAL, tags)
        self._tokens, self._bytes = _made(TOKENS, tags), _made(BYTES, tags)
        self._retries = _made(RETRIES, tags)

    def units(self, done: float) -> None:
        """So many are done now, with parts of those under way.

        To be said again and again: Ray lets go of a gauge that it does not hear of for two of its
        intervals, 20 seconds, and so of those of a stage that is over.
        """
        self._done.set(done)
        self._total.set(self._total_units)

    def stored(self, what: Stored) -> None:
        """A unit was done for the first time, by a worker of this driver."""
        _add(self._tokens, what.tokens, {HOST: what.host})
        _add(self._bytes, what.bytes, {HOST: what.host})

    def retried(self, units: int) -> None:
        """So many units failed, or lost their worker, and are given out again."""
        _add(self._retries, units)


def why_not_exported() -> str | None:
    """Nodes whose metrics nobody can read, for a person; None where every node exports."""
    silent = sorted(
        str(node["NodeManagerHostname"])
        for node in ray.nodes()
        if node["Alive"] and int(node.get("MetricsExportPort") or 0) <= 0
    )
    if not silent:
        return None
    return (
        f"no metrics are exported on {', '.join(silent)}: install ray[default] there "
        "(pip install 'bathyscope[cluster]') to have them"
    )


def _made(name: MetricName, tags: dict[str, str]) -> Any:
    kind = Counter if name.kind == COUNTER else Gauge
    metric = kind(name.name, description=name.help, tag_keys=name.tags)
    metric.set_default_tags(tags)
    if name.kind == COUNTER and HOST not in name.tags:
        # `inc` refuses zero, but Prometheus sees no increase in the first value of a series.
        metric._record(0.0)
    return metric


def _add(counter: Any, value: float, tags: dict[str, str] | None = None) -> None:
    if value > 0:
        counter.inc(value, tags=tags)


def _tags(url: str, stage: str) -> dict[str, str]:
    return {"run": url.rstrip("/").rsplit("/", 1)[-1], "stage": stage}
