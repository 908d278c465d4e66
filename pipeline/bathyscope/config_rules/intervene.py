"""Rules of interventions."""

from __future__ import annotations

import math

from bathyscope.config import Config
from bathyscope.config_rules.choices import one_of
from bathyscope.errors import ConfigError

WITH_VALUE = ("steer", "clamp", "scale")
ABLATIONS = ("zero", "mean", "resample")


def check(config: Config) -> None:
    """Raise `ConfigError` for a change that is unknown, or values that are not finite numbers."""
    settings = config.intervene
    one_of("intervene.change", settings.change, (*WITH_VALUE, *ABLATIONS))
    wrong = [value for value in settings.values if not math.isfinite(value)]
    if wrong:
        raise ConfigError(f"intervene.values has {wrong[0]}. Finite numbers are wanted.")
    places = settings.positions
    listed = isinstance(places, list) and all(type(place) is int for place in places) and places
    if not listed and places not in ("all", "prompt", "generated"):
        raise ConfigError(
            f"intervene.positions is {places!r}. One of all, prompt, generated is wanted, or a "
            "list of numbers such as [0,-1]."
        )
