"""Linters over scripts, the Dockerfile and YAML."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from deploy_files import DEPLOY, ROOT, checked, tool


def scripts() -> list[Path]:
    """Files that a shell runs, or another script reads."""
    found = []
    for path in sorted(p for p in DEPLOY.rglob("*") if p.is_file()):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        if re.match(r"#!.*sh\b|# shellcheck shell=", first):
            found.append(path)
    return found


def test_all_scripts_are_found() -> None:
    assert {path.name for path in scripts()} == {
        "bathyscope.sbatch",
        "site.sh",
        "submit-and-wait.sh",
        "drain-node.sh",
        "get-check-tools.sh",
    }


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    checked(tool("shellcheck"), "--external-sources", str(script.relative_to(ROOT)), cwd=ROOT)


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.name)
def test_scripts_are_executable_but_for_those_that_are_read(script: Path) -> None:
    starts = script.read_text(encoding="utf-8").startswith("#!")
    assert os.access(script, os.X_OK) == starts


def test_hadolint_finds_nothing() -> None:
    checked(tool("hadolint"), str(DEPLOY / "docker" / "Dockerfile"))


def test_hadolint_would_see_a_root_image(tmp_path: Path) -> None:
    hadolint = tool("hadolint")
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nUSER root\n", encoding="utf-8")
    done = subprocess.run([hadolint, str(bad)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DL3006" in done.stdout
    assert "DL3002" in done.stdout


def test_yamllint_finds_nothing() -> None:
    config = str(DEPLOY / "yamllint.yml")
    checked(tool("yamllint"), "--strict", "--config-file", config, str(DEPLOY))
