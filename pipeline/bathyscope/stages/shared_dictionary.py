"""The dictionary of another run, read where it lies, so that other activations can be encoded.

`dictionaries/<name>` of this run holds a manifest alone, which names the other run and the digest
of the weights. It takes the place of `train`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from bathyscope.config import Config
from bathyscope.errors import ConfigError, ModelError
from bathyscope.runs.run import DICTIONARIES, SHARED, Run
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.hook_columns import hook_columns
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.objects import local_path
from bathyscope.values import Json, Receipt, Unit, UnitPlan

NAME = "train"
SEMANTICS = 1
_TOLD = ("num_latents", "k", "activation", "scales", "positions", "weights_digest")
"""What readers of this run must know; how it was trained stands in the other run."""


@dataclass
class SharedContext:
    """Which dictionary it is."""

    config: Config


def units(config: Config) -> Work:
    """One unit, identified by the weights.

    Raises `MissingArtifact` where that run has no such dictionary, `ConfigError` where
    `dictionary.digest` names other weights, and `ModelError` for one of other hook points.
    """
    facts = _facts(config)
    wanted = config.dictionary.digest
    if wanted is not None and wanted != facts["weights_digest"]:
        raise ConfigError(
            f"dictionary.digest is {wanted}, and dictionary {config.dictionary.name} of "
            f"{config.dictionary.run} has the weights {facts['weights_digest']}. It was trained "
            "anew, or it is another one: put the old one back, or pin these weights."
        )
    _check_columns(config)
    identity: Json = {"stage": NAME, "semantics": SEMANTICS, SHARED: facts["weights_digest"]}
    return Work(
        NAME,
        f"{DICTIONARIES}/{config.dictionary.name}",
        identity,
        UnitPlan((("all", 0, 1),), 1),
        unit_name="passes",
    )


def open(config: Config, work: Work) -> SharedContext:
    """Nothing is loaded."""
    return SharedContext(config)


def run(unit: Unit, context: SharedContext, guard: Guard) -> Outcome:
    """Nothing is copied."""
    return Outcome(valid=1)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Publish what the other manifest says of the dictionary, and where that lies."""
    theirs = _facts(config)
    facts: Json = {
        **{key: theirs[key] for key in _TOLD if key in theirs},
        SHARED: {"run": _place(config), "name": config.dictionary.name},
    }
    publish(begun, facts)
    return facts


def _facts(config: Config) -> Json:
    return Run(_place(config)).manifest(f"{DICTIONARIES}/{config.dictionary.name}").facts


def _place(config: Config) -> str:
    """The other run, by a path that does not depend on where a process was started."""
    run = str(config.dictionary.run)
    path = local_path(run)
    return run if path is None else os.path.abspath(path)


def _check_columns(config: Config) -> None:
    """Raise `ModelError` unless it reads and writes what the configuration says."""
    source = Run(_place(config))
    folder = source.objects.at(f"{DICTIONARIES}/{config.dictionary.name}")
    columns = hook_columns(config, Run(config.url))
    theirs: Json = json.loads(folder.get(_facts(config)["config_key"]))
    wanted = {
        "inputs": {rows.name: rows.width for rows in columns.inputs},
        "outputs": {rows.name: rows.width for rows in columns.outputs},
        "kind": config.dictionary.kind,
    }
    got = {
        **{
            side: {b["hook_point"]: b["stop"] - b["start"] for b in theirs[side]}
            for side in ("inputs", "outputs")
        },
        "kind": theirs["kind"],
    }
    if got != wanted:
        raise ModelError(
            f"Dictionary {config.dictionary.name} of {config.dictionary.run} is {got}, and this "
            f"run has {wanted}. Set hooks.points, dictionary.kind and its inputs and outputs as "
            "they were where it was trained, and take a model of the same widths."
        )
