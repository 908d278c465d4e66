"""A stage whose units sleep, and that some nodes cannot open."""

from __future__ import annotations

import os
import time
from typing import Any

from noop_stage import finish, units

from bathyscope.config import Config
from bathyscope.errors import ModelError
from bathyscope.runs.work import Work
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.values import Unit

__all__ = ["LONG_UNIT", "finish", "open", "run", "units"]

NO_CHECKPOINT = "BATHYSCOPE_TEST_NO_CHECKPOINT"
"""Set in the environment of a node that lacks the model's folder."""
LONG_UNIT = 7


def open(config: Config, work: Work) -> None:
    """As a harvest does where the model is not."""
    if os.environ.get(NO_CHECKPOINT):
        raise ModelError("'/models/llama' is no model folder: it has no config.json.")


def run(unit: Unit, context: Any, guard: Guard) -> Outcome:
    """A quarter of a second, but one unit takes ten seconds."""
    time.sleep(10.0 if unit.index == LONG_UNIT else 0.25)
    return Outcome(valid=unit.num_items)
