"""Members that the configuration lists: folders, hub repositories, or modules of any kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from bathyscope.config import Config, ModelConfig
from bathyscope.errors import ConfigError
from bathyscope.models.sizes import parameter_counts
from bathyscope.stages.model import empty_of
from bathyscope.stages.studies.member import Checkpoint, Member

_OF_MEMBER = ("name", "architecture", "seed", "tokens", "hook", "checkpoints")
# A member's architecture is a name; the model's, sizes of one that is only planned.
_OF_MODEL = {f.name for f in fields(ModelConfig)} - set(_OF_MEMBER)


def listed_members(config: Config) -> list[Member]:
    """The members of `family.members`. Raises `ConfigError` for keys that are not known."""
    return [_member(config, dict(given)) for given in config.family.members]


def _member(config: Config, given: dict[str, Any]) -> Member:
    unknown = set(given) - _OF_MODEL - set(_OF_MEMBER)
    if unknown or not given.get("name"):
        raise ConfigError(
            f"A member of family.members is {given}. A name is wanted, and of "
            f"{', '.join(_OF_MEMBER)} and the settings of `model` what it needs; "
            f"{', '.join(sorted(unknown)) or 'nothing'} is not known."
        )
    model = _model(config, given)
    own = replace(config, model=model)
    total, embedding = parameter_counts(empty_of(own))
    return Member(
        name=str(given["name"]),
        architecture=str(given.get("architecture") or given["name"]),
        parameters=total,
        embedding_parameters=embedding,
        seed=given.get("seed"),
        tokens=given.get("tokens"),
        model=model,
        hook=given.get("hook"),
        checkpoints=tuple(_checkpoint(own, c) for c in _each(given.get("checkpoints") or ())),
    )


def _each(given: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Checkpoints one by one; a mapping with `steps` stands for one of each step.

    {revision: step{step}, tokens_per_step: 2097152, steps: [0, 1, {first: 1000, last: 143000,
    every: 1000}]}, with path in place of revision for folders, as in path: mine/step-{step:06d}.
    """
    if not isinstance(given, Mapping):
        return list(given)
    places = [key for key in ("path", "revision") if key in given]
    template = str(given[places[0]]) if len(places) == 1 else ""
    if set(given) != {*places, "steps", "tokens_per_step"} or not _names_steps(template):
        raise ConfigError(
            f"Checkpoints of family.members are {dict(given)}. A list of checkpoints is wanted, or "
            "steps, tokens_per_step and one of path and revision, which holds {step}."
        )
    steps = sorted({step for entry in given["steps"] for step in _steps(entry)})
    return [
        {
            "name": f"step{step}",
            "tokens": step * int(given["tokens_per_step"]),
            places[0]: template.format(step=step),
        }
        for step in steps
    ]


def _names_steps(template: str) -> bool:
    """Whether each step has a name of its own."""
    try:
        return template.format(step=0) != template.format(step=1)
    except (KeyError, IndexError, ValueError):
        return False


def _steps(entry: int | Mapping[str, int]) -> Sequence[int]:
    """One step, or those from `first` to `last`."""
    if not isinstance(entry, Mapping):
        return [int(entry)]
    if set(entry) != {"first", "last", "every"} or entry["every"] < 1:
        raise ConfigError(
            f"Steps of checkpoints are {dict(entry)}. Wanted first, last and every, from 1 on."
        )
    return range(entry["first"], entry["last"] + 1, entry["every"])


def _checkpoint(config: Config, given: Mapping[str, Any]) -> Checkpoint:
    if not {"name", "tokens"} <= set(given):
        raise ConfigError(
            f"A checkpoint of family.members is {dict(given)}. A name and its training tokens are "
            "wanted, and a path or a revision."
        )
    return Checkpoint(str(given["name"]), int(given["tokens"]), _model(config, given))


def _model(config: Config, given: Mapping[str, Any]) -> ModelConfig:
    chosen = {key: value for key, value in given.items() if key in _OF_MODEL}
    if "kind" not in chosen:
        if "path" in chosen:
            chosen["kind"] = "folder"
        elif "repo" in chosen:
            chosen["kind"] = "hub"
        elif "factory" in chosen:
            chosen["kind"] = "module"
    return replace(config.model, **chosen)
