"""What a worker pod does before it goes: Ray is told, and units end or go elsewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy_files import DEPLOY, WHOLE, missing
from fake_nodes import FakeNodes, why_not

SCRIPT = DEPLOY / "docker" / "drain-node.sh"
RAY = (sys.executable, "-m", "ray.scripts.scripts")
WITH_A_WORKER = """
import time
import ray
from bathyscope.jobs.cluster_ray import draining_nodes

ray.init(address="10.77.0.1:6379", log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=1)
class Worker:
    def address(self):
        return ray.util.get_node_ip_address()

worker = Worker.remote()
print(ray.get(worker.address.remote()), flush=True)
end = time.monotonic() + 60
while time.monotonic() < end and not draining_nodes():
    time.sleep(0.2)
names = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
print(*((names[node], round(seconds)) for node, seconds in draining_nodes().items()), flush=True)
ray.kill(worker)
time.sleep(60)
"""


def fake_ray(folder: Path, line: str) -> dict[str, str]:
    """An environment with a `ray` that runs one line of shell."""
    path = folder / "ray"
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "RAY_ADDRESS": "10.0.0.1:6379"}


def test_it_tells_ray_how_long_it_stays(tmp_path: Path) -> None:
    environment = fake_ray(tmp_path, f'echo "$*" >"{tmp_path}/told"')
    # Workers of other tests may live on this machine: no longer than it is told to.
    subprocess.run(["sh", str(SCRIPT), "3"], env=environment, check=True, timeout=20)
    words = (tmp_path / "told").read_text(encoding="utf-8").split()
    assert words[:3] == ["drain-node", "--address", "10.0.0.1:6379"]
    assert words[-2:] == ["--deadline-remaining-seconds", "3"]
    assert "DRAIN_NODE_REASON_PREEMPTION" in words


def test_a_head_that_is_gone_lets_the_pod_go(tmp_path: Path) -> None:
    done = subprocess.run(["sh", str(SCRIPT), "50"], env=fake_ray(tmp_path, "exit 1"), check=False)
    assert done.returncode == 1


@pytest.mark.parametrize(("argv", "missing_name"), [([], "SECONDS"), (["5"], "RAY_ADDRESS")])
def test_it_says_what_it_lacks(argv: list[str], missing_name: str) -> None:
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["sh", str(SCRIPT), *argv], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert missing_name in done.stderr


@pytest.mark.cluster
@pytest.mark.skipif(not WHOLE, reason="takes half a minute: `make deploy-check`")
def test_its_own_node_drains_and_it_leaves_with_the_last_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := why_not():
        missing(reason)
    path = tmp_path / "ray"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(RAY)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    # As KubeRay sets them with authOptions.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("RAY_ADDRESS", "10.77.0.1:6379")
    head = "ray start --head --port=6379 --node-ip-address=10.77.0.1 --include-dashboard=false"
    with FakeNodes(tmp_path / "nodes", shared=tmp_path) as nodes:
        nodes.check("node1", *shlex.split(head), "--num-cpus=0")
        nodes.check("node2", "ray", "start", "--address=10.77.0.1:6379", "--num-cpus=1")
        driver = subprocess.Popen(
            nodes.command("node1", [sys.executable, "-c", WITH_A_WORKER]),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "10.77.0.2\n"
        started = time.monotonic()
        nodes.check("node2", "sh", str(SCRIPT), "100")
        assert time.monotonic() - started < 60
        assert re.match(r"\('10\.77\.0\.2', (9\d|100)\)$", driver.stdout.readline())
        driver.kill()
        driver.stdout.close()
        driver.wait()
