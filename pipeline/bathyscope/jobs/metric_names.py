"""Names of the metrics that jobs export through Ray to Prometheus.

The one table that the code, the alert rules and the dashboard in `deploy/monitoring` share.
"""

from __future__ import annotations

from dataclasses import dataclass

COUNTER = "counter"
GAUGE = "gauge"
TAGS = ("run", "stage")
"""Labels of every metric: the last part of the URL that the command was given, and the stage."""
HOST = "host"
"""A further label of what the driver counts for workers: the host that did it."""


@dataclass(frozen=True)
class MetricName:
    """One metric, as `ray.util.metrics` is given it and as Prometheus stores it."""

    name: str
    """What `ray.util.metrics.Counter` or `Gauge` is called with."""
    kind: str
    """`COUNTER` only grows while its process lives; `GAUGE` is a state."""
    help: str
    tags: tuple[str, ...] = TAGS
    """Its labels; Ray adds that of the node whose process exports it, and others."""

    @property
    def exported(self) -> str:
        """Its name in Prometheus: Ray puts `ray_` before it, and `_total` after a counter."""
        return f"ray_{self.name}{'_total' if self.kind == COUNTER else ''}"


TOKENS = MetricName(
    "bathyscope_tokens",
    COUNTER,
    "tokens, or positions of images, whose rows are stored",
    (*TAGS, HOST),
)
BYTES = MetricName("bathyscope_bytes", COUNTER, "bytes of shards that were written", (*TAGS, HOST))
QUEUE_DEPTH = MetricName("bathyscope_queue_depth", GAUGE, "shards that wait to be written")
STALL_SECONDS = MetricName(
    "bathyscope_stall_seconds", COUNTER, "seconds in which the model waited for writers"
)
RETRIES = MetricName("bathyscope_retries", COUNTER, "units that were given out again")
UNITS_DONE = MetricName(
    "bathyscope_units_done",
    GAUGE,
    "units of the stage that are done, with parts of those under way",
)
UNITS_TOTAL = MetricName("bathyscope_units_total", GAUGE, "units of the stage in all")

METRICS = (TOKENS, BYTES, QUEUE_DEPTH, STALL_SECONDS, RETRIES, UNITS_DONE, UNITS_TOTAL)
