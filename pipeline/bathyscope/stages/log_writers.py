"""Who takes the scalars of a training: TensorBoard's event files, or Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from bathyscope.config import LoggingConfig
from bathyscope.errors import ConfigError, DependencyError
from bathyscope.values import Json

NONE, TENSORBOARD, WANDB = "none", "tensorboard", "wandb"
MODULES = {TENSORBOARD: "torch.utils.tensorboard", WANDB: "wandb"}
"""What is loaded for each: seconds of work."""


class Writer(Protocol):
    """Takes scalars by step."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take the scalars of a step. Returns before they are stored."""
        ...

    def flush(self) -> None:
        """Return when what was taken lies in files, where there are files."""
        ...

    def close(self) -> None:
        """Store what is left."""
        ...


class TensorBoard:
    """Event files in `folder`. Points after `start` steps that lie there already are taken back."""

    def __init__(self, folder: Path, settings: LoggingConfig, *, start: int, facts: Json) -> None:
        # It brings a web server along; who logs nothing need not load it.
        from torch.utils.tensorboard import SummaryWriter

        # A training that goes on does the steps after its checkpoint again.
        purge = start + 1 if start else None
        self._writer: Any = SummaryWriter(
            str(folder), purge_step=purge, flush_secs=max(1, round(settings.flush_s))
        )
        if not start:
            self._writer.add_text("settings", _table(facts))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hand the scalars to the thread that writes them."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Return when what was taken is in the file."""
        self._writer.flush()

    def close(self) -> None:
        """Write the rest and close the file."""
        self._writer.close()


class Wandb:
    """A run at Weights & Biases, or in offline mode its files below `folder`.

    `identifier` is the same for the same training, so that one that goes on goes on there: steps
    that are done again are not taken twice, and have the same scalars.
    """

    def __init__(
        self,
        folder: Path,
        settings: LoggingConfig,
        *,
        name: str,
        group: str,
        identifier: str,
        facts: Json,
    ) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run: Any = wandb.init(
                project=settings.project,
                entity=settings.entity,
                mode="offline" if settings.mode == "offline" else "online",
                dir=str(folder),
                name=name,
                group=group,
                id=identifier,
                resume="allow",
                # Others of the same process go on beside it.
                reinit="create_new",
                config=facts,
                settings=wandb.Settings(
                    console="off", silent=True, disable_git=True, disable_code=True
                ),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"Weights & Biases cannot be reached or refused the run: {error}. Set "
                "WANDB_API_KEY, or choose logging.mode=offline or logging=tensorboard."
            ) from error

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hand the scalars to the process that sends them."""
        self._run.log(dict(scalars), step=step)

    def flush(self) -> None:
        """Nothing is held here."""

    def close(self) -> None:
        """Send the rest, or store it."""
        self._run.finish()


def check_installed(settings: LoggingConfig) -> None:
    """Raise `DependencyError` where what was chosen is not installed."""
    needed = {
        TENSORBOARD: ("tensorboard", "pip install tensorboard"),
        WANDB: ("wandb", "pip install bathyscope[wandb]"),
    }
    if settings.kind not in needed:
        return
    package, command = needed[settings.kind]
    if find_spec(package) is None:
        raise DependencyError(
            f"logging.kind is {settings.kind}, and the package {package} is not installed. "
            f"{command}, or choose another: logging=tensorboard, logging=wandb or logging=none."
        )


def _table(facts: Json) -> str:
    """Settings as a table in Markdown."""
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])
