"""Versions that decide what bytes come out: workers must have those of the driver."""

from __future__ import annotations

import importlib.metadata
import platform
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


def check_versions(wanted: Mapping[str, str], found: Mapping[str, str], host: str) -> None:
    """Raise `JobError` that names every difference between the driver's versions and a worker's."""
    differing = [
        f"{name} {found.get(name, 'absent')} (driver: {there})"
        for name, there in wanted.items()
        if found.get(name, "absent") != there
    ]
    if differing:
        raise JobError(
            f"The worker on {host} has {', '.join(differing)}. Other versions give other bytes: "
            "install the same on every node, or start the driver from the same image."
        )
