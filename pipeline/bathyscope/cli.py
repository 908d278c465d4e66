"""The command line: compose the configuration, call one command."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from bathyscope.command_help import OF_A_FOLDER, all_commands, one_command
from bathyscope.commands.calls import FAILED, Given, call
from bathyscope.composition import compose, compose_sweep, to_record, to_yaml
from bathyscope.errors import BathyscopeError, ConfigError, StopRequested
from bathyscope.secrets import without_secrets

INTERRUPTED = 130
STOPPED = 143


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
        _say(without_secrets(f"{type(error).__name__}: {error}"), to=sys.stderr)
        if os.environ.get("BATHYSCOPE_DEBUG"):
            raise
        return FAILED
    except KeyboardInterrupt:
        _say("Interrupted. Finished units are kept: the same command goes on.", to=sys.stderr)
        return INTERRUPTED


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
    if command == "study":
        # The group is chosen by the name of the study.
        overrides = [re.sub(r"^name=", "study=", word) for word in overrides]
    if "--help" in options or "-h" in options:
        _say(one_command(command))
        return 0
    one_command(command)
    if command == "sweep":
        return _sweep(overrides, config_dir, only_shown="--cfg" in options)
    config, resolved = compose(overrides, config_dir=config_dir, planned=command == "plan")
    if "--cfg" in options:
        _say(to_yaml(resolved))
        return 0
    if config.sweep.grid:
        raise ConfigError(
            f"sweep.grid has {', '.join(config.sweep.grid)}, but `bathyscope {command}` makes one "
            "dictionary. Use `bathyscope sweep`, or sweep=none."
        )
    if command == "stream":
        from bathyscope.commands.stream import stream

        folders = [option for option in options if option.startswith("--config-dir=")]
        record = to_record(resolved)
        stream(config, words=[*overrides, *folders], resolved=record, overrides=overrides)
        return 0
    return call(command, Given(config, to_record(resolved), overrides, _say))


def _sweep(overrides: list[str], config_dir: str | None, *, only_shown: bool) -> int:
    base, resolved, points = compose_sweep(overrides, config_dir=config_dir)
    if only_shown:
        _say(to_yaml(resolved))
        return 0
    from bathyscope.commands.sweep import sweep

    record = to_record(resolved)
    return 0 if sweep(base, points, resolved=record, overrides=overrides, say=_say) else FAILED


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


def _say(text: str, to: Any = None) -> None:
    stream = to or sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


if __name__ == "__main__":
    main()
