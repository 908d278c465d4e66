"""The program that is started after a night: it gets the report's path, and mails or posts it."""

from __future__ import annotations

import shlex
import subprocess

from bathyscope.commands.progress import Screen
from bathyscope.config import Config

_SHOWN = 400


def start_command(config: Config, report: str, screen: Screen) -> bool:
    """Start `nightly.command` with the report as its last argument; whether it ended well.

    It gets no shell. What goes wrong is told and changes nothing of the night, which is published.
    """
    given = config.nightly.command
    if not given:
        return True
    words = shlex.split(given)
    try:
        done = subprocess.run(
            [*words, report],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=config.nightly.command_timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        screen.line(f"FAILED    nightly.command: {type(error).__name__}: {error}")
        return False
    if done.returncode:
        told = (done.stderr or done.stdout).strip()[-_SHOWN:]
        screen.line(f"FAILED    nightly.command: {words[0]} ended with {done.returncode}: {told}")
    return done.returncode == 0
