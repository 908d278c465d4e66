"""The configuration of a run is read back from its record."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

import bathyscope
from bathyscope.config import Config
from bathyscope.errors import MissingArtifact
from bathyscope.runs.run import Run
from bathyscope.stages.recorded import recorded_config


def test_model_data_and_hook_points(finished: Run, finished_config: Config) -> None:
    found = recorded_config(finished)
    assert found.model == finished_config.model
    assert found.data == finished_config.data
    assert found.hooks == finished_config.hooks
    assert (found.url, found.cache) == (finished.url, finished_config.cache)
    assert recorded_config(finished, cache="elsewhere").cache == "elsewhere"


def test_settings_of_another_version_are_said_once(
    finished: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = finished.record
    record["config"]["model"]["quantum"] = True
    record["config"]["hooks"]["points"] = ["mlp_in.0-2"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING):
        found = recorded_config(bathyscope.open(str(tmp_path)))
    assert "model.quantum" in caplog.text
    assert found.hooks.points == ["mlp_in.0", "mlp_in.1", "mlp_in.2"]


def test_a_record_without_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format_version": 1}')
    with pytest.raises(MissingArtifact, match="has no configuration"):
        recorded_config(bathyscope.open(str(tmp_path)))
