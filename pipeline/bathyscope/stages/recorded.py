"""The configuration that a run was made with, as far as its model and corpus need it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from bathyscope.config import Config, DataConfig, HooksConfig, ModelConfig
from bathyscope.config.ranges import expanded
from bathyscope.errors import MissingArtifact
from bathyscope.runs.run import Run
from bathyscope.values import Json

logger = logging.getLogger(__name__)

Part = TypeVar("Part", ModelConfig, DataConfig, HooksConfig)


def recorded_config(run: Run, *, cache: str | None = None) -> Config:
    """Model, data and hook points as run.json has them; everything else stands at its default.

    `cache` replaces the folder for converted models. Raises `MissingArtifact` for a run whose
    record has no configuration.
    """
    record: Json = run.record.get("config") or {}
    if "model" not in record:
        raise MissingArtifact(
            f"{run.url}/run.json has no configuration, so its model is not known. Give the run "
            "that `bathyscope run` made."
        )
    config = Config(url=run.url, cache=cache or record.get("cache"))
    config.model = _part(ModelConfig, record["model"], "model")
    config.data = _part(DataConfig, record.get("data", {}), "data")
    config.hooks = _part(HooksConfig, record.get("hooks", {}), "hooks")
    config.hooks.points = expanded(config.hooks.points)
    return config


def with_given_model(config: Config, run: Run, overrides: Sequence[str]) -> Config:
    """The run's own configuration, with what `overrides` name of `model` taken from `config`."""
    found = recorded_config(run, cache=config.cache)
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key == "model":
            found.model = config.model
        elif key.startswith("model."):
            field = key.split(".")[1]
            setattr(found.model, field, getattr(config.model, field))
    return found


def _part(kind: type[Part], record: Json, group: str) -> Part:
    known = {item.name for item in fields(kind)}
    others = sorted({*record} - known)
    if others:
        logger.warning(
            "run.json has settings of another version, which are passed over: %s",
            ", ".join(f"{group}.{name}" for name in others),
        )
    given: dict[str, Any] = {name: value for name, value in record.items() if name in known}
    return kind(**given)
