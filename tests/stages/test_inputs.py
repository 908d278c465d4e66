"""What stages read from the configuration: the cache folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from bathyscope.config import Config
from bathyscope.stages.inputs import cache_folder


def test_the_cache_is_the_configured_folder_before_the_environment_before_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BATHYSCOPE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder(Config()) == tmp_path / "home" / ".cache" / "bathyscope"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(Config()) == tmp_path / "xdg" / "bathyscope"
    monkeypatch.setenv("BATHYSCOPE_CACHE", str(tmp_path / "ours"))
    assert cache_folder(Config()) == tmp_path / "ours"
    configured = cache_folder(Config(cache=str(tmp_path / "configured")))
    assert configured == tmp_path / "configured"
    assert configured.is_dir()
