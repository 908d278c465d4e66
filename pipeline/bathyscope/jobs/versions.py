"""Versions that decide what bytes come out: workers must have those of the driver."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
from collections.abc import Mapping

from bathyscope.errors import JobError

_PACKAGES = ("bathyscope", "torch", "triton", "transformers", "numpy", "zarr")


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on; `absent` where there is none."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def check_versions(wanted: Mapping[str, str], mine: Mapping[str, str] | None = None) -> None:
    """Raise `JobError` that names every difference between the driver's versions and these."""
    mine = versions() if mine is None else mine
    differing = [
        f"{name} {mine.get(name, 'absent')} (driver: {there})"
        for name, there in wanted.items()
        if mine.get(name, "absent") != there
    ]
    if differing:
        raise JobError(
            f"The worker on {socket.gethostname()} has {', '.join(differing)}. Other versions give "
            "other bytes: install the same on every node, or start the driver from the same image."
        )
