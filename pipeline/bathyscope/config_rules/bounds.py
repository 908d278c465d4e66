"""Numbers: which setting must lie above or not below a bound, as its field says."""

from __future__ import annotations

import math
from dataclasses import Field, fields, is_dataclass
from typing import Any

from bathyscope.config import Config
from bathyscope.config.option import ABOVE, LEAST
from bathyscope.errors import ConfigError


def check(config: Config) -> None:
    """Raise `ConfigError` for a number outside the bounds of its field."""
    for group in fields(config):
        settings = getattr(config, group.name)
        for setting in fields(settings) if is_dataclass(settings) else ():
            _check_one(f"{group.name}.{setting.name}", getattr(settings, setting.name), setting)


def _check_one(name: str, value: Any, setting: Field[Any]) -> None:
    # NaN compares false with everything, so the accepted range is what is asked for.
    bounds = setting.metadata
    if ABOVE in bounds and not bounds[ABOVE] < value < math.inf:
        raise ConfigError(f"{name} is {value}. A number above {bounds[ABOVE]} is wanted.")
    if LEAST in bounds and value is not None and not bounds[LEAST] <= value < math.inf:
        raise ConfigError(f"{name} is {value}. {bounds[LEAST]} or a number above it is wanted.")
