"""Prints the dependencies of a pyproject.toml and of some of its extras, a line each.

python3 requirements.py pyproject.toml EXTRA…

So an image installs them before the code is copied, and keeps that layer when only code changes.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(text: str, extras: list[str]) -> list[str]:
    """The requirements as pip reads them. Raises `KeyError` for an extra that is not there."""
    project = tomllib.loads(text)["project"]
    found = list(project["dependencies"])
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return found


if __name__ == "__main__":
    path, *extras = sys.argv[1:]
    lines = requirements(Path(path).read_text(encoding="utf-8"), extras)
    sys.stdout.write("\n".join(lines) + "\n")
