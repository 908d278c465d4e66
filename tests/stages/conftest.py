"""A copy of the finished run that a test may change."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from bathyscope.config import Config


@pytest.fixture
def copied(finished_config: Config, tmp_path: Path) -> Config:
    shutil.copytree(finished_config.url, tmp_path / "copy")
    return dataclasses.replace(finished_config, url=str(tmp_path / "copy"))
