"""stream: harvest and training at the same time, over a store that holds a few units at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

from bathyscope.commands.disk import check_disk, estimate
from bathyscope.commands.plan import lines
from bathyscope.commands.progress import Screen
from bathyscope.commands.run import Record, Step, carry_out
from bathyscope.config import Config
from bathyscope.errors import ConfigError, JobError
from bathyscope.runs.identity import same
from bathyscope.runs.run import ACTIVATIONS
from bathyscope.stages import harvest
from bathyscope.stages.log_writers import check_installed
from bathyscope.stages.model import describe_model
from bathyscope.stores.manifests import latest
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

_REMEMBERED = 20
_LOOK_S = 0.2
_END_S = 60.0


def stream(
    config: Config,
    *,
    words: Sequence[str],
    resolved: Json | None = None,
    overrides: Sequence[str] = (),
    screen: Screen | None = None,
) -> Json:
    """Train a dictionary on rows while they are harvested, and return the figures of both stages.

    At most `store.limit_bytes` of activations are there at once. The harvest is the command
    `bathyscope harvest` with these `words`, in a process of its own: on a cluster the two may as
    well be two jobs. Each goes on where it stopped. Raises `JobError` when the harvest fails.
    """
    if not config.store.limit_bytes:
        raise ConfigError(
            "store.limit_bytes is 0, which keeps all rows. Give the bytes that may be there at "
            "once, as in store.limit_bytes=200000000000 train.epochs=1, or use `bathyscope run`."
        )
    check_installed(config.logging)
    screen = screen or Screen()
    model = describe_model(config)
    needed = estimate(config, model)
    needed = replace(needed, latents=0, activations=min(needed.activations, _limit(config)))
    for line in lines(config, model, needed):
        screen.line(line)
    check_disk(config, needed)
    record = Record(config.url, resolved or {}, overrides, "stream")
    carry_out(config, [Step("corpus", "corpus", config)], record=record, screen=screen)
    with Harvest(words, screen) as harvesting:
        harvesting.wait_until_begun(config)
        beside = _Beside(harvesting)
        found = carry_out(config, [Step("train", "train", config)], record=record, screen=beside)
        harvesting.wait()
    return found


class Harvest:
    """The harvest in a process of its own; its lines come to the screen."""

    def __init__(self, words: Sequence[str], screen: Screen) -> None:
        self._screen = screen
        self._last: deque[str] = deque(maxlen=_REMEMBERED)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bathyscope.cli", "harvest", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def __enter__(self) -> Harvest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let it end in good order; its finished units are kept."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def wait_until_begun(self, config: Config) -> None:
        """Return when its store is there. Raises `JobError` when it failed before."""
        wanted = harvest.units(config).identity
        objects = Objects(config.url).at(ACTIVATIONS)
        while True:
            found = latest(objects)
            if found is not None and same(found.identity, wanted):
                return
            self.check()
            time.sleep(_LOOK_S)

    def check(self) -> None:
        """Raise `JobError` when it failed."""
        code = self._process.poll()
        if code:
            self._reading.join(_END_S)
            said = "\n  ".join(self._last)
            raise JobError(
                f"The harvest ended with code {code}, so there will be no more rows. What is done "
                f"is kept: mend the cause, then run the same command again. It said:\n  {said}"
            )

    def wait(self) -> None:
        """Return when it is complete. Raises `JobError` when it failed."""
        self._process.wait()
        self.check()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.rstrip()
            self._last.append(text)
            if text.startswith(("harvest", "note:")):
                self._screen.line(text)


class _Beside(Screen):
    """A screen of the training, which ends when the harvest has failed."""

    def __init__(self, harvesting: Harvest) -> None:
        super().__init__()
        self._harvesting = harvesting

    def progress(self, done: float, text: str) -> None:
        """Say it, while there will be more rows."""
        self._harvesting.check()
        super().progress(done, text)


def _limit(config: Config) -> int:
    return int(config.store.limit_bytes)
