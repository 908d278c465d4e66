"""The command line: compose, validate, call one command. The only file that imports Hydra."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bathyscope.command_help import OF_A_FOLDER, all_commands, one_command
from bathyscope.config import Config, setting_names
from bathyscope.config_rules import validate
from bathyscope.errors import BathyscopeError, ConfigError, StopRequested

INTERRUPTED = 130
STOPPED = 143
FAILED = 2
FAULTS = 1


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `bathyscope`.

    Exits with 0, 1 when `verify` finds faults, 2 for an error that is explained, 130 for ^C,
    143 when a signal asked it to stop.
    """
    sys.exit(run_command(list(sys.argv[1:] if argv is None else argv)))


def run_command(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return _dispatch(argv)
    except StopRequested as error:
        _say(str(error), to=sys.stderr)
        return STOPPED
    except BathyscopeError as error:
        _say(f"{type(error).__name__}: {error}", to=sys.stderr)
        if os.environ.get("BATHYSCOPE_DEBUG"):
            raise
        return FAILED
    except KeyboardInterrupt:
        _say("Interrupted. Finished units are kept: the same command goes on.", to=sys.stderr)
        return INTERRUPTED


def compose(
    overrides: Sequence[str], *, config_dir: str | None = None, planned: bool = False
) -> tuple[Config, DictConfig]:
    """The validated configuration, and the same as Hydra composed it.

    What is only `planned` needs less: see `validate`.
    Raises `ConfigError` with near matches for an unknown key, group or choice.
    """
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
    validate(config, planned=planned)
    return config, found


def _dispatch(argv: list[str]) -> int:
    options = [word for word in argv if word.startswith("-")]
    words = [word for word in argv if not word.startswith("-")]
    if "--version" in options:
        from bathyscope import __version__

        _say(__version__)
        return 0
    config_dir = _config_dir(options)
    if not words:
        if "--cfg" in options or config_dir is not None:
            raise ConfigError(f"{' '.join(options)} needs a command, as in `bathyscope run --cfg`.")
        _say(all_commands())
        return 0
    command, overrides = words[0], words[1:]
    if command in OF_A_FOLDER:
        overrides = [_setting(word) for word in overrides]
    if "--help" in options or "-h" in options:
        _say(one_command(command))
        return 0
    one_command(command)
    config, resolved = compose(overrides, config_dir=config_dir, planned=command == "plan")
    if "--cfg" in options:
        _say(OmegaConf.to_yaml(resolved).rstrip())
        return 0
    return _call(command, config, resolved, overrides)


def _call(command: str, config: Config, resolved: DictConfig, overrides: list[str]) -> int:
    # Imported here: `--help` and `--cfg` answer without torch.
    from bathyscope.commands import run as runs

    if command == "plan":
        from bathyscope.commands.plan import plan

        found = plan(config)
        _say("\n".join(found["lines"]))
        return FAILED if found["refusal"] else 0
    if command == "verify":
        from bathyscope.commands.verify import verify

        return 0 if verify(config, _say) else FAULTS
    if command == "redo":
        from bathyscope.commands.redo import redo

        redo(config, _say)
        return 0
    if command == "convert":
        from bathyscope.commands.convert import convert

        convert(config, _say)
        return 0
    record: Any = OmegaConf.to_container(resolved, resolve=True)
    stages = runs.STAGES if command == "run" else (command,)
    runs.run(
        config,
        stages=stages,
        resolved=record,
        overrides=overrides,
        command=command,
    )
    if command in ("run", "evaluate", "report"):
        _say(runs.summary(config))
    return 0


def _setting(word: str) -> str:
    """A word of the command line as a setting: a bare path or URL is that of the run."""
    if "=" in word or word.startswith(("~", "+")):
        return word
    # Quoted for Hydra's grammar, as in `_search_path`.
    return "url='{}'".format(word.replace("'", "\\'"))


def _config_dir(options: list[str]) -> str | None:
    known = ("--help", "-h", "--cfg", "--version")
    found = None
    for option in options:
        if option.startswith("--config-dir="):
            found = option.partition("=")[2]
        elif option not in known:
            raise ConfigError(_unknown_option(option))
    return found


def _unknown_option(option: str) -> str:
    near = get_close_matches(option, ("--help", "--cfg", "--config-dir=", "--version"), n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return (
        f"Unknown option {option}. {hint}Options are --help, --cfg (print the resolved "
        "configuration), --config-dir=FOLDER (more YAML files) and --version. Settings are given "
        "as group=choice or key=value."
    )


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


def _say(text: str, to: Any = None) -> None:
    stream = to or sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


if __name__ == "__main__":
    main()
