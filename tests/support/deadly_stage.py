"""A stage whose units kill their worker, as one does that takes too much memory."""

from __future__ import annotations

import os
import signal
from typing import Any

from noop_stage import finish, open, units

from bathyscope.stages.stage import Guard, Outcome
from bathyscope.values import Unit

__all__ = ["finish", "open", "run", "units"]


def run(unit: Unit, context: Any, guard: Guard) -> Outcome:
    """Die."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process went on")
