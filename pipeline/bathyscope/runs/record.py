"""run.json: the resolved configuration and the history of a run folder.

History says who did what when, with which versions. It is recorded and never compared.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import socket
import subprocess
import sys
from pathlib import Path

import bathyscope
from bathyscope.errors import FormatVersionError
from bathyscope.runs.run import FORMAT_VERSION
from bathyscope.secrets import without_secrets
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

_PACKAGES = ("torch", "transformers", "accelerate", "zarr", "ray", "numpy", "triton", "obstore")


def start(objects: Objects, *, config: Json, overrides: list[str], command: str) -> Json:
    """Add an entry to the history of a run and return the record.

    Raises `FormatVersionError` when the folder was written in another format.
    """
    record = _read(objects)
    version = record.setdefault("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"{objects.location} was written in format version {version}; this Bathyscope writes "
            f"version {FORMAT_VERSION}. Choose another url."
        )
    record["config"], record["overrides"] = config, overrides
    record.setdefault("history", []).append(
        {
            "command": command,
            "overrides": overrides,
            "started": now(),
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "bathyscope": bathyscope.__version__,
            "commit": _commit(),
            "versions": _versions(),
            "stages": {},
        }
    )
    write(objects, record)
    return record


def write(objects: Objects, record: Json) -> None:
    """Store the record."""
    objects.put("run.json", without_secrets(json.dumps(record, indent=1)).encode())


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _read(objects: Objects) -> Json:
    if not objects.exists("run.json"):
        return {}
    record: Json = json.loads(objects.get("run.json"))
    return record


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the source tree, when Bathyscope runs from one."""
    folder = Path(sys.modules["bathyscope"].__file__ or ".").parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
