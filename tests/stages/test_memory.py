"""Free memory of machines and containers, and trainings that are refused before they start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.stages import memory
from bathyscope.stages.memory import free_host_bytes, processes_here


def container(folder: Path, line: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Folders of a container's groups, and the file that names them."""
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    groups = folder / "groups"
    groups.write_text(line)
    return folder / "cgroup", groups


def test_a_container_has_its_limit_less_what_it_uses(tmp_path: Path) -> None:
    files = {
        "pod/memory.max": "max\n",
        "pod/one/memory.max": "1000\n",
        "pod/one/memory.current": "700\n",
        "pod/one/memory.stat": "anon 500\ninactive_file 150\n",
        "memory.current": "9\n",
    }
    assert free_host_bytes(*container(tmp_path, "0::/pod/one\n", files)) == 450


def test_the_older_groups_are_read_too(tmp_path: Path) -> None:
    files = {
        "memory/job/memory.limit_in_bytes": "5000\n",
        "memory/job/memory.usage_in_bytes": "2000\n",
        "memory/job/memory.stat": "total_inactive_file 100\n",
    }
    line = "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n"
    assert free_host_bytes(*container(tmp_path, line, files)) == 3100


def test_without_groups_the_machine_decides(tmp_path: Path) -> None:
    found = free_host_bytes(tmp_path, tmp_path / "none")
    assert 0 < found <= psutil.virtual_memory().total


def test_processes_of_one_machine_share_it(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    local = tiny_config(tmp_path / "run", cluster__kind="local")
    assert processes_here(local, 1) == 1
    assert processes_here(local, 4) == 4
    elsewhere = tiny_config(tmp_path / "run", cluster__kind="address", cluster__address="x:1")
    assert processes_here(elsewhere, 4) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert processes_here(elsewhere, 4) == 2


def test_a_training_that_does_not_fit_is_refused_before_its_first_step(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path / "run")
    run_stages(config, stages=["corpus", "harvest"])
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 10**6)
    with pytest.raises(ConfigError, match=r"The training needs \d+ MB of memory.* 1 MB are free"):
        run_stages(config, stages=["train"])
    assert not (tmp_path / "run" / "dictionaries" / "main" / "config.json").exists()
