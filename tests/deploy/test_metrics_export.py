"""What Ray really exports under the names that rules and dashboard use."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from bathyscope.jobs.metric_names import METRICS
from deploy_files import WHOLE, missing
from fake_nodes import FakeNodes, why_not

RAY = (sys.executable, "-m", "ray.scripts.scripts")
EXPORTING = """
import time, urllib.request
import ray
from ray.util.metrics import Counter, Gauge
from bathyscope.jobs.metric_names import COUNTER, METRICS

ray.init(address="10.77.0.1:6379", log_to_driver=False)
for metric in METRICS:
    kind = Counter if metric.kind == COUNTER else Gauge
    made = kind(metric.name, description=metric.help, tag_keys=metric.tags)
    (made.inc if metric.kind == COUNTER else made.set)(5, tags=dict.fromkeys(metric.tags, "mine"))
end = time.monotonic() + 60
text = ""
while time.monotonic() < end and text.count("# TYPE ray_bathyscope") < len(METRICS):
    time.sleep(1)
    try:
        text = urllib.request.urlopen("http://10.77.0.1:8080/metrics").read().decode()
    except OSError as error:
        text = str(error)
print(text)
"""


@pytest.mark.cluster
@pytest.mark.skipif(not WHOLE, reason="takes half a minute: `make deploy-check`")
def test_metrics_are_exported_with_these_names_kinds_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("opentelemetry.exporter.prometheus") is None:
        missing("ray[default] is not installed; `make deploy-check` installs it")
    if reason := why_not():
        missing(reason)
    # A file of the user's may hold a token of another cluster.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with FakeNodes(tmp_path, count=1) as nodes:
        address = ("--node-ip-address=10.77.0.1", "--port=6379", "--metrics-export-port=8080")
        nodes.check("node1", *RAY, "start", "--head", *address, "--num-cpus=1",
                    "--include-dashboard=false")  # fmt: skip
        text = nodes.check("node1", sys.executable, "-c", EXPORTING)
    lines = text.splitlines()
    for metric in METRICS:
        assert f"# TYPE {metric.exported} {metric.kind}" in lines
        (sample,) = (line for line in lines if line.startswith(f"{metric.exported}{{"))
        assert sample.endswith(" 5.0")
        for label in (*(f'{tag}="mine"' for tag in metric.tags), 'NodeAddress="10.77.0.1"'):
            assert label in sample
