"""The studies by name. One that is not finished is not here."""

from __future__ import annotations

from typing import Any

from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.stages.studies.capability import study as capability_range
from bathyscope.stages.studies.dictionaries import study as dictionary_scaling
from bathyscope.stages.studies.factoring import study as factoring
from bathyscope.stages.studies.second import study as second_model
from bathyscope.stages.studies.superposition import study as superposition
from bathyscope.stages.studies.universality import study as universality
from bathyscope.stages.studies.waste import study as wasted_weights

STUDIES: dict[str, Any] = {
    each.NAME: each
    for each in (
        dictionary_scaling,
        superposition,
        universality,
        wasted_weights,
        second_model,
        factoring,
        capability_range,
    )
}
"""Modules with what `bathyscope.stages.studies.study.Study` asks for."""


def study_of(config: Config) -> Any:
    """The configured study. Raises `ConfigError` for a name that none has."""
    if config.study.name not in STUDIES:
        raise ConfigError(
            f"study.name is {config.study.name!r}. One of {', '.join(STUDIES)} is wanted: "
            "study=NAME, or name=NAME."
        )
    return STUDIES[config.study.name]
