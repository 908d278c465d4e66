"""Small functions that several test files share."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from bathyscope.config import Config


def changed(config: Config, **settings: Any) -> Config:
    """The configuration with settings such as `train__lr=0.1` replaced."""
    for name, value in settings.items():
        group, _, field = name.partition("__")
        if not field:
            config = dataclasses.replace(config, **{group: value})
            continue
        part = dataclasses.replace(getattr(config, group), **{field: value})
        config = dataclasses.replace(config, **{group: part})
    return config


def listing(folder: str | Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    root = Path(folder)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def read_config(path: str | Path) -> Config:
    """The configuration that a test wrote as JSON for a child process."""
    data = json.loads(Path(path).read_text())
    parts = {f.name: f.default_factory for f in dataclasses.fields(Config)}
    made = {
        name: parts[name](**value) if dataclasses.is_dataclass(parts[name]) else value
        for name, value in data.items()
    }
    return Config(**made)
