"""The body of the CronJob, with a `kubectl` that answers from a list."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from deploy_files import KUBERAY

SCRIPT = KUBERAY / "submit-and-wait.sh"
KUBECTL = """#!/bin/sh
# Answers `get rayjob NAME` from the lines of states, one after another, the last one for ever.
echo "$*" >>"{folder}/calls"
case "$1 $2 $3" in
    "create "*) echo rayjob.ray.io/bathyscope-nightly-x7 ;;
    "get rayjob --namespace") cat "{folder}/jobs" ;;
    "get rayjob bathyscope-nightly-"*)
        line=$(head -n 1 "{folder}/states")
        if [ "$(wc -l <"{folder}/states")" -gt 1 ]; then sed -i 1d "{folder}/states"; fi
        if [ "$line" = refused ]; then echo "connection refused" >&2; exit 1; fi
        printf '%s' "$line"
        ;;
    *) echo "kubectl: $*?" >&2; exit 64 ;;
esac
"""


@pytest.fixture
def night(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the script: `night(states, jobs)`, jobs being those that are there already."""

    def run(states: Sequence[str], jobs: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        (tmp_path / "bin").mkdir()
        kubectl = tmp_path / "bin" / "kubectl"
        kubectl.write_text(KUBECTL.format(folder=tmp_path), encoding="utf-8")
        kubectl.chmod(0o755)
        (tmp_path / "states").write_text("".join(f"{s}\n" for s in states), encoding="utf-8")
        (tmp_path / "jobs").write_text("".join(f"{j}\n" for j in jobs), encoding="utf-8")
        return subprocess.run(
            ["sh", str(SCRIPT), "night.yaml", "bathyscope", "0.01"],
            env={"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


def calls(folder: Path, verb: str) -> list[str]:
    lines = (folder / "calls").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith(verb)]


Night = Callable[..., subprocess.CompletedProcess[str]]


def test_it_creates_a_job_and_waits_until_that_has_succeeded(night: Night, tmp_path: Path) -> None:
    done = night([" ", "Initializing ", "Running RUNNING", "Running RUNNING", "Complete SUCCEEDED"])
    assert done.returncode == 0, done.stderr
    assert calls(tmp_path, "create") == [
        "create --namespace bathyscope --filename night.yaml --output name"
    ]
    # Each state once.
    assert done.stdout.splitlines() == [
        "RayJob bathyscope-nightly-x7 is created",
        "RayJob bathyscope-nightly-x7: waits for the operator",
        "RayJob bathyscope-nightly-x7: Initializing",
        "RayJob bathyscope-nightly-x7: Running RUNNING",
        "RayJob bathyscope-nightly-x7: Complete SUCCEEDED",
    ]


@pytest.mark.parametrize("state", ["Complete FAILED", "Complete STOPPED", "Failed FAILED"])
def test_a_job_that_did_not_succeed_fails_the_night(night: Night, state: str) -> None:
    done = night(["Running RUNNING", state])
    assert done.returncode == 1
    assert "did not succeed" in done.stderr
    assert "kubectl logs --namespace bathyscope" in done.stderr


def test_a_pod_that_starts_again_waits_for_the_job_that_is_under_way(
    night: Night, tmp_path: Path
) -> None:
    done = night(
        ["Running RUNNING", "Complete SUCCEEDED"],
        jobs=["bathyscope-nightly-a1 Complete", "bathyscope-nightly-b2 Running"],
    )
    assert done.returncode == 0, done.stderr
    assert calls(tmp_path, "create") == []
    assert "RayJob bathyscope-nightly-b2 is under way" in done.stdout
    assert "get rayjob bathyscope-nightly-b2" in calls(tmp_path, "get rayjob bathy")[0]


def test_jobs_of_other_nights_are_left_alone(night: Night, tmp_path: Path) -> None:
    done = night(
        ["Complete SUCCEEDED"],
        jobs=["bathyscope-nightly-a1 Complete", "bathyscope-nightly-b2 Failed"],
    )
    assert done.returncode == 0, done.stderr
    assert len(calls(tmp_path, "create")) == 1


def test_an_api_server_that_restarts_is_waited_for(night: Night) -> None:
    done = night(["Running RUNNING", *["refused"] * 19, "Complete SUCCEEDED"])
    assert done.returncode == 0, done.stderr


def test_an_api_server_that_stays_away_is_given_up(night: Night) -> None:
    done = night(["Running RUNNING", "refused"])
    assert done.returncode == 1
    assert "20 times in a row" in done.stderr


def test_it_says_how_it_is_called() -> None:
    done = subprocess.run(["sh", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "submit-and-wait.sh MANIFEST NAMESPACE" in done.stderr
