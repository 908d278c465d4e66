"""A page in a real browser without a display, as its DOM and console."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Without these, a browser just started asks its makers for updates.
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--virtual-time-budget=6000", "--window-size=1280,900"),
)


def dump(page: Path, fragment: str = "") -> tuple[str, list[str]]:
    """The page's DOM once it is still, and the lines of its console."""
    assert CHROMIUM is not None
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *QUIET, profile, "--dump-dom", f"{page.as_uri()}{fragment}"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
