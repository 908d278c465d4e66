"""The names that are exported, as Ray and Prometheus spell them."""

from __future__ import annotations

import re

from bathyscope.jobs.metric_names import (
    COUNTER,
    GAUGE,
    METRICS,
    RETRIES,
    TAGS,
    TOKENS,
    UNITS_TOTAL,
)


def test_names_are_exported_with_rays_prefix_and_a_counters_suffix() -> None:
    assert TOKENS.exported == "ray_bathyscope_tokens_total"
    assert RETRIES.exported == "ray_bathyscope_retries_total"
    assert UNITS_TOTAL.exported == "ray_bathyscope_units_total"


def test_names_differ_and_are_ones_that_prometheus_takes() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert len({metric.exported for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"bathyscope_[a-z_]+", metric.name)
        assert metric.kind in (COUNTER, GAUGE)
        assert len(metric.help) > 10
        assert set(TAGS) <= set(metric.tags)
