"""Rules and dashboard: they parse, and name only metrics that jobs export."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from yaml import safe_dump, safe_load

from bathyscope.jobs.metric_names import COUNTER, HOST, METRICS, TAGS
from deploy_files import DEPLOY, checked, tool

MONITORING = DEPLOY / "monitoring"
FOREIGN = {"up", "kube_cronjob_status_last_successful_time"}
"""Metrics of Prometheus itself and of kube-state-metrics."""
OURS = {metric.exported: metric for metric in METRICS}


def rules() -> list[dict[str, Any]]:
    groups = safe_load((MONITORING / "rules.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))
    return found


def expressions() -> list[str]:
    """Every PromQL expression, those of the dashboard with its variables filled in."""
    found = [rule["expr"] for rule in rules()]
    for panel in dashboard()["panels"]:
        found += [t["expr"].replace("$__rate_interval", "5m") for t in panel["targets"]]
    return found


def names_in(expression: str) -> set[str]:
    """The metrics of an expression."""
    parser = pytest.importorskip("promql_parser")
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, parser.VectorSelector):
            found.add(node.name)
        elif isinstance(node, parser.MatrixSelector):
            walk(node.vector_selector)
        for part in ("expr", "lhs", "rhs"):
            inner = getattr(node, part, None)
            if inner is not None:
                walk(inner)
        for inner in getattr(node, "args", ()):
            walk(inner)

    walk(parser.parse(expression))
    return found


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_parses_and_names_metrics_that_are_exported(expression: str) -> None:
    names = names_in(expression)
    assert names
    assert names <= set(OURS) | FOREIGN


def test_a_metric_that_nobody_exports_would_be_seen() -> None:
    assert names_in("sum(rate(ray_bathyscope_token_total[5m])) / up") == {
        "ray_bathyscope_token_total",
        "up",
    }


def test_every_metric_is_shown() -> None:
    shown: set[str] = set()
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            shown |= names_in(target["expr"].replace("$__rate_interval", "5m"))
    assert shown == set(OURS)


@pytest.mark.parametrize("expression", expressions())
def test_counters_are_rated_and_gauges_are_not(expression: str) -> None:
    for name, metric in OURS.items():
        for match in re.finditer(rf"([\w() ,]*)\b{name}\b", expression):
            before = match[1]
            rated = before.endswith(("rate(", "increase("))
            if metric.kind == COUNTER:
                assert rated or re.search(r"count by \([\w, ]+\) \($", before), expression
            else:
                assert not rated, expression


def test_labels_are_those_that_are_exported() -> None:
    known = {*TAGS, HOST}
    for expression in expressions():
        for labels in re.findall(r"\bby \(([^)]*)\)", expression):
            assert {label.strip() for label in labels.split(",")} <= known, expression


def test_alerts_say_what_happened_and_what_to_do() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) == 5
    for alert in alerts:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert len(alert["annotations"]["summary"]) <= 110
        assert len(alert["annotations"]["description"]) > 30


def test_panels_have_a_place_and_a_description() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"
    variables = [v["name"] for v in dashboard()["templating"]["list"]]
    assert variables == ["datasource", "run"]


def test_promtool_accepts_the_rules_and_the_alerts_fire_as_they_should() -> None:
    promtool = tool("promtool")
    checked(promtool, "check", "rules", str(MONITORING / "rules.yml"))
    checked(promtool, "test", "rules", str(MONITORING / "rules_test.yml"))


def test_promtool_accepts_the_scrape_configuration(tmp_path: Path) -> None:
    """Debian's promtool is built without Kubernetes: its discovery is taken out before."""
    promtool = tool("promtool")
    config = safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    for scrape in config["scrape_configs"]:
        if scrape.pop("kubernetes_sd_configs", None):
            scrape["static_configs"] = [{"targets": ["10.0.0.1:8080"]}]
    config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
    path = tmp_path / "prometheus.yml"
    path.write_text(safe_dump(config), encoding="utf-8")
    checked(promtool, "check", "config", str(path))
