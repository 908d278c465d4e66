"""The scalars of a training while it runs: where they go, and what of them.

    logs/<dictionary>/       event files of TensorBoard, or files of Weights & Biases

in the folder of the run, beside the artifacts and no part of them. A run on an object store has the
files in the cache folder while they grow, and copies of them in the store after each checkpoint and
at the end. The first process writes, and the others nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import TracebackType

from bathyscope.config import Config
from bathyscope.runs.identity import digest
from bathyscope.stages.inputs import cache_folder
from bathyscope.stages.log_writers import (
    MODULES,
    NONE,
    TENSORBOARD,
    WANDB,
    TensorBoard,
    Wandb,
    Writer,
    check_installed,
)
from bathyscope.stores.objects import Objects
from bathyscope.training.loop import Point
from bathyscope.values import Json

LOGS = "logs"

logger = logging.getLogger(__name__)


class Log:
    """Takes points of a training curve. Without a writer it takes nothing.

    Where the disk does not take them that is said once, and the training goes on without.
    """

    def __init__(
        self,
        writer: Writer | None = None,
        copies: Copies | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._copies = copies
        self._clock = clock
        self._last: tuple[int, float] | None = None

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._try(lambda writer: writer.close())
        if self._copies is not None:
            self._copies.finish()

    def write(self, point: Point) -> None:
        """Take a point, which is on the host already: no GPU is waited for."""
        if self._writer is not None:
            scalars = self._scalars(point)
            self._try(lambda writer: writer.write(point.step, scalars))

    def keep(self) -> None:
        """Bring what there is to an object store, in the background."""
        if self._copies is not None:
            self._try(lambda writer: writer.flush())
            self._copies.begin()

    def _try(self, do: Callable[[Writer], None]) -> None:
        if self._writer is None:
            return
        try:
            do(self._writer)
        except OSError as error:
            self._writer = None
            logger.warning(
                "The curves are not logged any more: %s. The training goes on, and curve.parquet "
                "will have them.",
                error,
            )

    def _scalars(self, point: Point) -> dict[str, float]:
        """The columns of `curve.parquet`, and the speed since the point before."""
        scalars = {"tokens": float(point.tokens), **point.figures._asdict()}
        now = self._clock()
        if self._last is not None and now > self._last[1]:
            scalars["rows_per_s"] = (point.tokens - self._last[0]) / (now - self._last[1])
        self._last = (point.tokens, now)
        return {f"train/{name}": value for name, value in scalars.items()}


class Copies:
    """Brings the files of a folder to a store, by one thread, and only those that have grown.

    A copy that fails is said once and tried again at the next turn: a training does not end for it.
    """

    def __init__(self, folder: Path, objects: Objects) -> None:
        self._folder = folder
        self._objects = objects
        self._sizes: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(1, "logs")
        self._copying: Future[None] | None = None
        self._said = False

    def begin(self) -> None:
        """Copy what has grown, unless the last copies are still under way."""
        if self._copying is None or self._copying.done():
            self._copying = self._pool.submit(self._copy)

    def finish(self) -> None:
        """Copy the rest and return."""
        self._pool.submit(self._copy).result()
        self._pool.shutdown()

    def _copy(self) -> None:
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    self._copy_one(path, path.relative_to(self._folder).as_posix())

    def _copy_one(self, path: Path, key: str) -> None:
        try:
            if self._sizes.get(key) == path.stat().st_size:
                return
            data = path.read_bytes()
            self._objects.put(key, data)
        except OSError as error:
            self._say(key, error)
        else:
            self._sizes[key] = len(data)

    def _say(self, key: str, error: Exception) -> None:
        if not self._said:
            logger.warning(
                "%s cannot be copied to %s: %s. It lies in %s, and is tried again later.",
                key, self._objects.location, error, self._folder,
            )  # fmt: skip
        self._said = True


def open_log(config: Config, *, segment: str, rank: int, start: int) -> Log:
    """The log of the configured dictionary, of which `start` steps are done.

    One that starts anew removes what an earlier training of this name has left. Raises
    `DependencyError` for a package that is not installed, `ConfigError` where Weights & Biases
    refuses.
    """
    settings, name = config.logging, config.dictionary.name
    if settings.kind == NONE:
        return Log()
    check_installed(settings)
    # By all, or the others would wait for the first one in their first exchange.
    import_module(MODULES[settings.kind])
    if rank != 0:
        return Log()
    objects = Objects(config.url).at(f"{LOGS}/{name}")
    key = digest({"url": config.url, "dictionary": name})
    folder = objects.local or cache_folder(config) / LOGS / key / name
    if start == 0:
        shutil.rmtree(folder, ignore_errors=True)
        objects.delete_folder("")
    copies = None if objects.local is not None else Copies(folder, objects)
    if settings.kind == WANDB:
        identifier = digest({"url": config.url, "dictionary": name, "segment": segment})
        writer: Writer = Wandb(
            folder,
            settings,
            name=name,
            group=config.url,
            identifier=identifier,
            facts=_facts(config),
        )
    else:
        writer = TensorBoard(folder, settings, start=start, facts=_facts(config))
    return Log(writer, copies)


def _facts(config: Config) -> Json:
    """What tells one training from another where curves are looked at."""
    groups = {"dictionary": config.dictionary, "train": config.train}
    return {
        f"{group}.{key}": value for group, of in groups.items() for key, value in vars(of).items()
    }


def curves_command(config: Config) -> str | None:
    """The command that shows the curves of a run; None where they are not TensorBoard's."""
    if config.logging.kind != TENSORBOARD:
        return None
    return f"tensorboard --logdir {config.url.rstrip('/')}/{LOGS}"
