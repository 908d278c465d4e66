"""A study as its tests want it: run with what it said, its rows, and a finished one made once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bathyscope.commands.study import study
from bathyscope.config import Config
from bathyscope.runs.run import Run

Rows = list[dict[str, Any]]


def said(config: Config) -> tuple[bool, str]:
    """Whether nothing failed, and all that was printed."""
    lines: list[str] = []
    whole = study(config, lines.append)
    return whole, "\n".join(lines)


def rows_of(config: Config) -> Rows:
    """The table of the configured study."""
    rows: Rows = Run(config.url).study_table(config.study.name).to_pylist()
    return rows


def of(rows: Rows, **where: Any) -> Rows:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


def made_once(config: Config, kept: Path) -> tuple[Config, str]:
    """A finished study in the folder of `config`, and what it said: run at first, then copied.

    `kept` is where the finished one lies; it is not there before the first call.
    """
    if kept.exists():
        shutil.copytree(kept, config.url)
        return config, (kept / "said").read_text()
    whole, text = said(config)
    assert whole, text
    (Path(config.url) / "said").write_text(text)
    shutil.copytree(config.url, kept)
    return config, text
