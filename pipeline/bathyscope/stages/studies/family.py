"""The models that a study compares: those of a ladder, or any that are listed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from bathyscope.config import Config, ModelConfig
from bathyscope.errors import ConfigError
from bathyscope.runs.run import LADDER, Run
from bathyscope.stages.studies.corpora import with_corpora
from bathyscope.stages.studies.listed import listed_members
from bathyscope.stages.studies.member import Checkpoint, Member
from bathyscope.stores.objects import local_path
from bathyscope.values import Json

UNTRAINED = "untrained"


def family_of(config: Config) -> list[Member]:
    """The members, by architecture, size and seed; models without training come last.

    Raises `ConfigError` where there are none or two of one name, `MissingArtifact` where the ladder
    is not finished.
    """
    settings = config.family
    if settings.kind == "ladder":
        found = _ladder(config)
    else:
        found = with_corpora(config, listed_members(config))
    names = [member.name for member in found]
    if settings.models:
        found = [m for m in found if any(fnmatchcase(m.name, p) for p in settings.models)]
    if not found or len(set(names)) < len(names):
        raise ConfigError(
            f"The family has the models {', '.join(names) or 'of no name'}, and family.models is "
            f"{settings.models}. At least one has to be left, and no name may come twice."
        )
    found.sort(key=lambda m: (m.architecture, m.parameters, m.seed or 0))
    if not settings.checkpoints:
        found = [replace(member, checkpoints=()) for member in found]
    if settings.most_checkpoints:
        found = [
            replace(m, checkpoints=thinned(m.checkpoints, settings.most_checkpoints)) for m in found
        ]
    return found + (_untrained(found) if config.study.random_models else [])


def corpus_run(config: Config, member: Member | None = None) -> str:
    """The run whose corpus is read: by all members, or by one that may have another tokenizer."""
    if member is not None and member.corpus is not None:
        return _absolute(member.corpus)
    if config.family.kind == "ladder":
        return _absolute(_ladder_run(config))
    return _absolute(config.url)


def sequence_length(config: Config) -> int:
    """Tokens of the sequences that all members read."""
    if config.family.kind == "ladder":
        return Run(_ladder_run(config)).corpus.sequence_length
    return config.data.sequence_length


def thinned(checkpoints: Sequence[Checkpoint], most: int) -> tuple[Checkpoint, ...]:
    """At most so many: first weights, and those nearest to equal ratios of tokens after them.

    The first and the last after them are always among them, so there are three at least.
    """
    first = [c for c in checkpoints if c.tokens == 0]
    later = sorted((c for c in checkpoints if c.tokens > 0), key=lambda c: c.tokens)
    places = max(most - len(first), 2)
    if len(later) <= places:
        return (*first, *later)
    logs = np.log([c.tokens for c in later])
    wanted = np.linspace(logs[0], logs[-1], places)
    chosen = sorted({int(np.abs(logs - each).argmin()) for each in wanted})
    return (*first, *(later[i] for i in chosen))


def _untrained(members: list[Member]) -> list[Member]:
    """Of each size the first weights of one member, where they are kept."""
    found: dict[tuple[str, int], Member] = {}
    for member in members:
        first = next((c for c in member.checkpoints if c.tokens == 0), None)
        key = (member.architecture, member.parameters)
        if first is not None and key not in found:
            found[key] = replace(
                member,
                name=f"{member.name}-{UNTRAINED}",
                model=first.model,
                tokens=0,
                trained=False,
                overfitted=False,
                held_out_loss=None,
                checkpoints=(),
            )
    return list(found.values())


def _ladder_run(config: Config) -> str:
    if not config.family.run:
        raise ConfigError(
            "family.run is not set, and family.kind is ladder. Give the run that `bathyscope "
            "ladder` made, as in family.run=runs/ladder."
        )
    return config.family.run


def _ladder(config: Config) -> list[Member]:
    run = Run(_ladder_run(config))
    return [_of_ladder(config, run, row) for row in run.ladder["models"]]


def _of_ladder(config: Config, run: Run, row: Mapping[str, Any]) -> Member:
    name, objects = str(row["name"]), run.objects.at(LADDER)
    folder = f"{_absolute(run.url)}/{LADDER}/{name}"
    per_step = row["tokens"] // row["steps"]
    steps = [c for c in objects.children(name) if c.startswith("step-")]
    checkpoints = [
        Checkpoint(
            step, int(step.removeprefix("step-")) * per_step, _folder(config, f"{folder}/{step}")
        )
        for step in sorted(steps)
    ]
    return Member(
        name=name,
        architecture=str(row["family"]),
        parameters=row["parameters"],
        embedding_parameters=row["embedding_parameters"],
        seed=row["seed"],
        tokens=row["tokens"],
        model=_folder(config, f"{folder}/final"),
        overfitted=row["best_tokens"] < row["tokens"],
        held_out_loss=row["held_out_loss"],
        checkpoints=tuple(checkpoints),
    )


def _folder(config: Config, path: str) -> ModelConfig:
    return replace(config.model, kind="folder", path=path, repo=None, revision=None)


def _absolute(url: str) -> str:
    return url if local_path(url) is None else os.path.abspath(str(local_path(url)))


def table_row(member: Member) -> Json:
    """What a table of the members says of one."""
    per = None if member.tokens is None else member.tokens / member.parameters
    return {
        "member": member.name,
        "architecture": member.architecture,
        "parameters": member.parameters,
        "embedding_parameters": member.embedding_parameters,
        "model_seed": member.seed,
        "tokens": member.tokens,
        "tokens_per_parameter": per,
        "held_out_loss": member.held_out_loss,
        "overfitted": member.overfitted,
        "trained": member.trained,
    }
