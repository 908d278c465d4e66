"""run: all stages in order, or one of them. Each goes on where it stopped."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from bathyscope.commands.disk import check_disk, estimate
from bathyscope.commands.memory import PeakMemory
from bathyscope.commands.plan import lines
from bathyscope.commands.progress import Screen, duration, size
from bathyscope.config import Config
from bathyscope.errors import BathyscopeError, ConfigError, StopRequested
from bathyscope.jobs import open_driver
from bathyscope.jobs.events import EventLog, Recorded
from bathyscope.jobs.sink import Sink
from bathyscope.runs import record as records
from bathyscope.runs.work import Begun
from bathyscope.stages.inputs import is_of_images
from bathyscope.stages.log_writers import check_installed
from bathyscope.stages.model import describe_model
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

_OF_TEXT = ("fine_tune", "evaluate", "describe", "report")
_OF_AUTOENCODERS = ("fine_tune", "evaluate", "report")
STAGES = ("corpus", "harvest", "train", "encode", "evaluate", "describe", "report")


def run(
    config: Config,
    *,
    stages: Sequence[str] = STAGES,
    resolved: Json | None = None,
    overrides: Sequence[str] = (),
    command: str = "run",
    screen: Screen | None = None,
) -> Json:
    """Run stages in order and return the figures of each.

    The plan comes first, and disk is checked, before a model is loaded or a worker started.
    `resolved` and `overrides` go into run.json.
    """
    screen = screen or Screen()
    stages = _that_read(config, stages)
    model = describe_model(config)
    needed = estimate(config, model)
    for line in lines(config, model, needed):
        screen.line(line)
    check_disk(config, needed)
    if "train" in stages:
        check_installed(config.logging)
    record = Record(config.url, resolved or {}, overrides, command)
    steps = (Step(name, name, config) for name in stages)
    return carry_out(config, steps, record=record, screen=screen)


class Step(NamedTuple):
    """One stage that is to be brought to completion."""

    name: str
    """What the record and the figures call it."""
    stage: str
    config: Config
    subject: str = ""
    """What it is about, where the stage comes several times."""


class Noted(Protocol):
    """Is told of each step that is done."""

    def add(self, name: str, figures: Json, peak_bytes: int) -> None:
        """A step is done; `peak_bytes` is the most memory so far."""
        ...


class Record:
    """The entry of a command in run.json, written after each of its steps."""

    def __init__(self, url: str, resolved: Json, overrides: Sequence[str], command: str) -> None:
        self._objects = Objects(url)
        self._record = records.start(
            self._objects, config=resolved, overrides=list(overrides), command=command
        )
        self._entry = self._record["history"][-1]

    def add(self, name: str, figures: Json, peak_bytes: int) -> None:
        """A step is done; `peak_bytes` is the most memory so far."""
        self._entry["stages"][name] = figures
        self._entry["peak_bytes"] = self._record["peak_bytes"] = peak_bytes
        self._entry["finished"] = records.now()
        self._entry["seconds"] = round(sum(s["seconds"] for s in self._entry["stages"].values()), 2)
        records.write(self._objects, self._record)


def carry_out(
    config: Config,
    steps: Iterable[Step],
    *,
    record: Noted,
    screen: Screen,
    failed: Callable[[Step, BathyscopeError], None] | None = None,
) -> Json:
    """Do steps one after another with one driver, and return the figures of each.

    A step is asked for when those before it are done, so it may depend on them. `failed` is told of
    a step that raised, and the next one follows; without it the error is raised.
    """
    found: Json = {}
    seconds = 0.0
    log = EventLog(config.url)
    with PeakMemory() as memory:
        driver = open_driver(config)
        try:
            for step in steps:
                started = time.monotonic()
                memory.mark()
                watched, screen.subject = _Watched(screen), step.subject
                stage: Any = importlib.import_module(_module(step.config, step.stage))
                sink = Recorded(watched, log, step.name)
                try:
                    found[step.name] = driver.drive(stage, sink, step.config)
                except BathyscopeError as error:
                    sink.failed(error)
                    if failed is None or isinstance(error, StopRequested):
                        raise
                    failed(step, error)
                    continue
                took = time.monotonic() - started
                seconds += took
                figures = {
                    "seconds": round(took, 2),
                    "peak_bytes": memory.mark(),
                    "reused": watched.complete,
                }
                record.add(step.name, figures, memory.total_bytes)
            screen.line(f"total     {duration(seconds)}, peak memory {size(memory.total_bytes)}")
            return found
        finally:
            screen.stop()
            driver.close()


def stages_of(config: Config, asked: Sequence[str] = STAGES) -> list[str]:
    """Those of some stages that this configuration can have so far."""
    without, _ = _without(config)
    return [stage for stage in asked if stage not in without]


def _that_read(config: Config, asked: Sequence[str]) -> list[str]:
    """The stages that can be done. Raises `ConfigError` where that is none of those asked for."""
    left = stages_of(config, asked)
    if not left:
        raise ConfigError(f"{', '.join(asked)} {_without(config)[1]}")
    return left


def _without(config: Config) -> tuple[Sequence[str], str]:
    """Stages that this configuration cannot have so far, and why."""
    if is_of_images(config):
        return _OF_TEXT, (
            f"reads text only so far, and data.kind is {config.data.kind}. "
            "Of images there are corpus, harvest, train and encode."
        )
    kind = config.dictionary.kind
    if kind == "crosscoder":
        return ("report",), (
            "reads autoencoders only so far, and dictionary.kind is crosscoder. "
            "Of crosscoders there are train, encode, evaluate and describe."
        )
    if kind != "autoencoder":
        return _OF_AUTOENCODERS, (
            f"reads autoencoders only so far, and dictionary.kind is {kind}. "
            "Of other kinds there are train, encode and describe."
        )
    return (), ""


def _module(config: Config, stage: str) -> str:
    """The module of a stage, by the dictionary."""
    if stage == "evaluate" and config.dictionary.kind == "crosscoder":
        stage = "evaluate_crosscoder"
    if stage == "train" and config.dictionary.run is not None:
        stage = "shared_dictionary"
    return f"bathyscope.stages.{stage}"


class _Watched:
    """Passes everything on and remembers whether there was anything to do."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.complete = False

    def begin(self, begun: Begun) -> None:
        self.complete = begun.complete
        self._sink.begin(begun)

    def progress(self, done: float, text: str) -> None:
        self._sink.progress(done, text)

    def note(self, text: str) -> None:
        self._sink.note(text)

    def end(self, begun: Begun, facts: Json) -> None:
        self._sink.end(begun, facts)
