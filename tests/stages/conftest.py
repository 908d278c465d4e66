"""One finished run of the whole path, shared by the tests of all stages."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import bathyscope
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.runs.run import Run


@pytest.fixture(scope="session")
def finished_config(
    tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    config = tiny_config(tmp_path_factory.mktemp("runs") / "tiny")
    run_stages(config)
    return config


@pytest.fixture(scope="session")
def finished(finished_config: Config) -> Run:
    return bathyscope.open(finished_config.url)


@pytest.fixture
def copied(finished_config: Config, tmp_path: Path) -> Config:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished_config.url, tmp_path / "copy")
    return dataclasses.replace(finished_config, url=str(tmp_path / "copy"))
