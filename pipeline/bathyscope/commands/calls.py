"""What each command does with its configuration, and the code that it exits with.

Commands are imported when they are called: `--help` and `--cfg` answer without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bathyscope.config import Config

DONE = 0
FAULTS = 1
FAILED = 2


class Given(NamedTuple):
    """What a command is called with."""

    config: Config
    record: dict[str, Any]
    """The resolved configuration, as runs keep it."""
    overrides: list[str]
    say: Callable[[str], None]


def call(command: str, given: Given) -> int:
    """Call a command, one of `CALLS` or a stage, and return its exit code."""
    own = CALLS.get(command)
    return _stages(command, given) if own is None else own(given)


def _plan(given: Given) -> int:
    from bathyscope.commands.plan import plan

    found = plan(given.config)
    given.say("\n".join(found["lines"]))
    return FAILED if found["refusal"] else DONE


def _verify(given: Given) -> int:
    from bathyscope.commands.verify import verify

    return DONE if verify(given.config, given.say) else FAULTS


def _status(given: Given) -> int:
    from bathyscope.commands.status import status

    status(given.config, given.say)
    return DONE


def _nightly(given: Given) -> int:
    from bathyscope.commands.nightly import nightly

    return DONE if nightly(given.config, given.say) else FAILED


def _redo(given: Given) -> int:
    from bathyscope.commands.redo import redo

    redo(given.config, given.say)
    return DONE


def _convert(given: Given) -> int:
    from bathyscope.commands.convert import convert

    convert(given.config, given.say)
    return DONE


def _attribute(given: Given) -> int:
    from bathyscope.commands.attribute import attribute

    config, own = given.config, given.record["attribute"]
    done = attribute(config, given.say, resolved=own, overrides=given.overrides)
    return DONE if done else FAILED


def _intervene(given: Given) -> int:
    from bathyscope.commands.intervene import intervene

    intervene(given.config, given.say, overrides=given.overrides)
    return DONE


def _study(given: Given) -> int:
    from bathyscope.commands.study import study

    done = study(given.config, given.say, resolved=given.record, overrides=given.overrides)
    return DONE if done else FAILED


def _ladder(given: Given) -> int:
    from bathyscope.commands.ladder import ladder

    ladder(given.config, given.say, resolved=given.record, overrides=given.overrides)
    return DONE


def _stages(command: str, given: Given) -> int:
    """All stages of a run, or one."""
    from bathyscope.commands import run as runs
    from bathyscope.commands import summary

    runs.run(
        given.config,
        stages=runs.STAGES if command == "run" else (command.replace("-", "_"),),
        resolved=given.record,
        overrides=given.overrides,
        command=command,
    )
    if command in ("run", "evaluate", "report"):
        given.say(summary.of_run(given.config))
    if command == "fine-tune":
        given.say(summary.of_fine_tuning(given.config))
    return DONE


CALLS: dict[str, Callable[[Given], int]] = {
    "plan": _plan,
    "verify": _verify,
    "status": _status,
    "nightly": _nightly,
    "redo": _redo,
    "convert": _convert,
    "attribute": _attribute,
    "intervene": _intervene,
    "study": _study,
    "ladder": _ladder,
}
"""Commands that are no stages."""
