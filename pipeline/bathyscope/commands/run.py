"""run: all stages in order, or one of them. Each goes on where it stopped."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from typing import Any

from bathyscope.commands.disk import check_disk, estimate
from bathyscope.commands.memory import PeakMemory
from bathyscope.commands.plan import lines
from bathyscope.commands.progress import Screen, duration, size
from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.jobs import Driver, open_driver
from bathyscope.jobs.sink import Sink
from bathyscope.runs import record as records
from bathyscope.runs.run import EVALUATIONS, REPORT, Run
from bathyscope.runs.work import Begun
from bathyscope.stages.inputs import is_of_images
from bathyscope.stages.model import describe_model
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

_OF_TEXT = ("evaluate", "describe", "report")
_OF_AUTOENCODERS = ("evaluate", "report")
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
    objects = Objects(config.url)
    record = records.start(
        objects, config=resolved or {}, overrides=list(overrides), command=command
    )
    with PeakMemory() as memory:
        driver = open_driver(config)
        try:
            return _stages(driver, stages, record=record, memory=memory, screen=screen, to=objects)
        finally:
            screen.stop()
            driver.close()


def _that_read(config: Config, stages: Sequence[str]) -> list[str]:
    """The stages that can be done. Raises `ConfigError` where that is none of those asked for."""
    without, because = _without(config)
    left = [stage for stage in stages if stage not in without]
    if not left:
        raise ConfigError(f"{', '.join(stages)} {because}")
    return left


def _without(config: Config) -> tuple[Sequence[str], str]:
    """Stages that this configuration cannot have so far, and why."""
    if is_of_images(config):
        return _OF_TEXT, (
            f"reads text only so far, and data.kind is {config.data.kind}. "
            "Of images there are corpus, harvest, train and encode."
        )
    kind = config.dictionary.kind
    if kind != "autoencoder":
        return _OF_AUTOENCODERS, (
            f"reads autoencoders only so far, and dictionary.kind is {kind}. "
            "Of other kinds there are train, encode and describe."
        )
    return (), ""


def summary(config: Config) -> str:
    """The last lines of a run: figures of the evaluation, the report's path, the next command."""
    if is_of_images(config):
        return (
            f"latents: {config.url.rstrip('/')}/latents.zarr/{config.dictionary.name}\n"
            "evaluate, describe and report read text only so far; the rows are there for yours."
        )
    if config.dictionary.kind != "autoencoder":
        return (
            f"features: {config.url.rstrip('/')}/features/{config.dictionary.name}\n"
            "evaluate and report read autoencoders only so far; the latents are there for yours."
        )
    run = Run(config.url)
    name = config.dictionary.name
    e = run.manifest(f"{EVALUATIONS}/{name}").facts
    figures = (
        f"held out: L0 {e['l0']:.1f}  FVU {e['fvu']:.3f} (train {e['train_fvu']:.3f}, "
        f"PCA {e['fvu_pca']:.3f}, random {e['fvu_random']:.3f})  "
        f"loss recovered (zero) {e['loss_recovered_zero']:.3f}  ΔCE {e['delta_ce']:.3f} nats  "
        f"dead {100 * e['dead_share']:.1f} % of {e['dead_share_rows']:,} tokens"
    )
    page = f"{config.url.rstrip('/')}/{REPORT}/index.html"
    return f"report: {page}\n{_next(config)}\n{figures}"


def _next(config: Config) -> str:
    return (
        f"next: bathyscope run {' '.join(_given(config))} dictionary.name=wide "
        "dictionary.expansion=16"
    )


def _given(config: Config) -> list[str]:
    """What this run was started with, but for the name of the dictionary and its size."""
    overrides = Run(config.url).record["overrides"]
    kept = [o for o in overrides if not o.startswith(("dictionary.name", "dictionary.expansion"))]
    return kept or [f"url={config.url}"]


def _stages(
    driver: Driver,
    names: Sequence[str],
    *,
    record: Json,
    memory: PeakMemory,
    screen: Screen,
    to: Objects,
) -> Json:
    entry = record["history"][-1]
    found: Json = {}
    for name in names:
        started = time.monotonic()
        memory.mark()
        watched = _Watched(screen)
        stage: Any = importlib.import_module(f"bathyscope.stages.{name}")
        found[name] = driver.drive(stage, watched)
        entry["stages"][name] = {
            "seconds": round(time.monotonic() - started, 2),
            "peak_bytes": memory.mark(),
            "reused": watched.complete,
        }
        entry["peak_bytes"] = record["peak_bytes"] = memory.total_bytes
        entry["finished"] = records.now()
        records.write(to, record)
    entry["seconds"] = round(sum(s["seconds"] for s in entry["stages"].values()), 2)
    records.write(to, record)
    screen.line(f"total     {duration(entry['seconds'])}, peak memory {size(entry['peak_bytes'])}")
    return found


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
