"""The configuration as Hydra composes it from files and overrides, or one for each point of a grid.

The only file that imports Hydra.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bathyscope.config import Config, setting_names
from bathyscope.config.ranges import expanded
from bathyscope.config_rules import validate
from bathyscope.errors import ConfigError
from bathyscope.sweep_points import SweepPoint, check_axes, name_points


def compose(
    overrides: Sequence[str], *, config_dir: str | None = None, planned: bool = False
) -> tuple[Config, DictConfig]:
    """The validated configuration, and the same as Hydra composed it.

    What is only `planned` needs less: see `validate`.
    Raises `ConfigError` with near matches for an unknown key, group or choice.
    """
    config, found = _composed(overrides, config_dir)
    validate(config, planned=planned)
    return config, found


def _composed(overrides: Sequence[str], config_dir: str | None) -> tuple[Config, DictConfig]:
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    ConfigStore.instance().store(name="schema", node=Config)
    GlobalHydra.instance().clear()
    extra = [_search_path(config_dir)] if config_dir is not None else []
    try:
        with hydra.initialize_config_module("bathyscope.conf", version_base="1.3"):
            found = hydra.compose("config", overrides=[*overrides, *extra])
        _refuse_added(found)
        config: Any = OmegaConf.to_object(found)
    # ValueError: Hydra's for a group that is set to null or a number, and that of `_refuse_added`.
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(_explain(error, overrides)) from error
    config.hooks.points = expanded(config.hooks.points)
    config.dictionary.inputs = expanded(config.dictionary.inputs)
    config.dictionary.outputs = expanded(config.dictionary.outputs)
    return config, found


def compose_sweep(
    overrides: Sequence[str], *, config_dir: str | None = None
) -> tuple[Config, DictConfig, list[SweepPoint]]:
    """The configuration without its grid, as Hydra composed it, and every point of the grid.

    The grid is that of `sweep.grid`, and of every setting that is given several values with commas.
    Raises `ConfigError` for a grid that is empty or varies what cannot be varied.
    """
    alone, given = _axes(overrides)
    # What is varied may be what makes it valid, such as a layer; every point is validated below.
    base, found = _composed(alone, config_dir)
    axes = {key: [_spelled(key, value) for value in _listed(key, values)]
            for key, values in base.sweep.grid.items()}  # fmt: skip
    axes |= given
    check_axes(axes)
    points = []
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        # Groups first: a setting must win over the file that its group comes from.
        ordered = sorted(chosen, key=lambda key: "." in key)
        more = [f"{key}={chosen[key]}" for key in ordered]
        config, _ = compose([*alone, *more], config_dir=config_dir)
        points.append(SweepPoint(chosen, config))
    return base, found, name_points(points)


def to_yaml(found: DictConfig) -> str:
    """What Hydra composed, as a file would have it."""
    return OmegaConf.to_yaml(found).rstrip()


def to_record(found: DictConfig) -> dict[str, Any]:
    """What Hydra composed, as plain values."""
    record: Any = OmegaConf.to_container(found, resolve=True)
    return record


def _axes(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Overrides with one value, and the values of those that have several."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    alone, axes = [], {}
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(_explain(error, overrides)) from error
    for word, override in zip(overrides, parsed, strict=True):
        if not override.is_sweep_override():
            alone.append(word)
            continue
        key = override.get_key_element().lstrip("+~")
        if not override.is_discrete_sweep() or "glob(" in word:
            raise ConfigError(f"{word}: values with commas, or range(…), are wanted in a sweep.")
        axes[key] = list(override.sweep_string_iterator())
    return alone, axes


def _listed(key: str, values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise ConfigError(
            f"sweep.grid has {values!r} for {key}. A list of values is wanted, as in [16, 32]."
        )
    return values


def _spelled(key: str, value: Any) -> str:
    """A value of a YAML file as an override spells it."""
    if isinstance(value, list):
        return f"[{','.join(_spelled(key, each) for each in value)}]"
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, str):
        return (
            value if re.fullmatch(r"[\w./-]+", value) else "'{}'".format(value.replace("'", "\\'"))
        )
    raise ConfigError(f"sweep.grid has {value!r} for {key}. Numbers, texts and lists are wanted.")


def _search_path(config_dir: str) -> str:
    folder = os.path.abspath(config_dir)
    if not os.path.isdir(folder):
        raise ConfigError(
            f"--config-dir is {config_dir!r}, which is no folder. Give one that holds YAML files "
            "in folders named after groups, such as experiment/mine.yaml."
        )
    # Quoted for Hydra's grammar: a folder's name may hold spaces, commas and brackets.
    quoted = folder.replace("'", "\\'")
    return f"hydra.searchpath=['file://{quoted}']"


def _refuse_added(found: DictConfig) -> None:
    """Raise for settings that `+key=value` has added: the schema knows them all."""
    known = setting_names()
    for key, value in found.items():
        nested = OmegaConf.get_type(value) if isinstance(value, DictConfig) else None
        group = str(key)
        names = [group] if nested in (None, dict) else [f"{group}.{inner}" for inner in value]
        for name in names:
            if name not in known:
                raise ConfigError(f"There is no setting {name!r}")


def _explain(error: BaseException, overrides: Sequence[str]) -> str:
    """Hydra's message without its internals, with near matches where a key is unknown."""
    while error.__cause__ is not None:
        error = error.__cause__
    full = str(error)
    text = re.split(r"Config search path|See https://hydra|\n3. To sweep over it", full)[0]
    if "To sweep over it" in full:
        text += "\n3. To train a dictionary for each value, use `bathyscope sweep`"
    text = re.sub(r"\n\s*(full_key|object_type|reference_type).*", "", text)
    text = " ".join(text.replace("\n\t", " ").split()).rstrip(".")
    where = re.search(r"\n\s*full_key: (\S+)", full)
    if where:
        text = f"{where[1]}: {text}"
    if "parsing override" in full or "mismatched input" in full or "no viable" in full:
        text = f"{text}. Quote a value with special characters, as in \"key='a=b, (c)'\""
    keys = [word.lstrip("+~").partition("=")[0] for word in overrides]
    unknown = [key for key in keys if key not in setting_names()]
    near = [match for key in unknown for match in get_close_matches(key, setting_names(), n=3)]
    given = f"Given: {' '.join(overrides)}. " if overrides else ""
    hint = f"Did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
    return f"{text}. {given}{hint}`bathyscope run --help` lists groups and settings."
