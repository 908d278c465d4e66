"""The page's figures are those of `bathyscope plan`, and its tables those of the code."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from bathyscope.commands.plan import plan
from bathyscope.composition import compose
from bathyscope.jobs.metric_names import METRICS
from deploy_files import DEPLOY, commands

README = (DEPLOY / "README.md").read_text(encoding="utf-8")
MODELS = ("llama3_1_8b", "llama3_1_70b", "llama3_1_405b")


@cache
def planned(model: str) -> dict[str, Any]:
    """What `plan` says of the page's command for a model."""
    (command,) = [c for c in commands() if c.file == "README.md" and f"model={model}" in c.words]
    name, *overrides = command.words
    assert name == "plan"
    config, _ = compose(overrides, planned=True)
    return plan(config)


def table() -> dict[str, list[str]]:
    """Rows of the sizing table, by their first cell."""
    start = README.index("| | Llama-3.1-8B")
    rows = README[start : README.index("\n\n", start)].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows]
    return {first: rest for first, *rest in cells}


@pytest.mark.parametrize("model", MODELS)
def test_the_sizing_table_is_what_plan_says(model: str) -> None:
    found = planned(model)
    assert found["refusal"] is None
    lines = {line.split()[0]: line.partition(" ")[2].strip() for line in found["lines"]}
    cells = {name: row[MODELS.index(model)] for name, row in table().items()}
    gpus, nodes = re.match(r"\w+: (\d+) GPU\(s\) on (\d+) node", lines["replica"]).groups()  # type: ignore[union-attr]
    wanted = gpus if nodes == "1" else f"{gpus}, on {nodes} nodes"
    assert cells["GPUs of a replica"] == wanted
    assert int(cells["replicas on 64 GPUs"]) == found["replicas"]
    assert f"holds {cells['weights on the fullest GPU']} of weights" in lines["replica"]
    # Two lines begin with `model`; the second one is that of the speed.
    assert lines["model"].startswith(f"{cells['tokens per second, all together']} tokens/s")
    assert lines["time"].startswith(f"{cells['time']}, {cells['GPU-hours']} GPU-hours")
    assert f"{cells['activations']} in all" in lines["rows"]
    assert f", {cells['each node writes'].partition(':')[0]} by each node" in lines["writing"]
    assert ("SLOWER" in lines["writing"]) == ("storage sets the pace" in cells["each node writes"])
    assert f" {cells['a unit takes']} each" in lines["units"]
    assert lines["objects"].startswith(f"{cells['objects']} shards")
    memory, _, where = cells["memory of a training process"].partition(", ")
    assert lines["training"].startswith(f"{memory} of memory {where}".strip())
    assert lines["memory"].startswith(cells["pinned memory of a worker"])
    for setting in cells["settings"].strip("`").split():
        assert setting in lines["settings"]


def test_nothing_is_said_to_be_short() -> None:
    for model in MODELS:
        assert planned(model)["training_refusal"] is None


def test_the_metrics_are_those_of_the_table_of_names() -> None:
    rows = re.findall(r"^\| `(ray_bathyscope_\w+)` \| (\w+) \| (.*) \|$", README, re.MULTILINE)
    assert rows == [(m.exported, m.kind, m.help) for m in METRICS]


def test_files_that_it_names_are_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)", README):
        assert (DEPLOY / link).exists(), link
    for name in re.findall(r"(?:--filename |--file |-file=|sbatch |scrontab )(deploy/\S+)", README):
        assert (DEPLOY.parent / name).exists(), name
    for name in re.findall(r"`([\w-]+\.(?:yaml|sh))`", README):
        assert list(DEPLOY.rglob(name)), name
