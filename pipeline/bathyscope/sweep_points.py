"""The points of a grid over settings: what may be varied, and how each is called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from bathyscope.config import Config, setting_names
from bathyscope.errors import ConfigError

_OF_THE_DICTIONARY = ("dictionary", "train")
"""Groups that may differ between dictionaries of one harvest."""
_FIXED = (
    "url", "cache", "force", "cluster", "hardware", "logging", "sweep", "verify", "redo", "convert",
    "evaluate", "describe", "fine_tune", "experiment", "dictionary.name", "train.processes",
    "train.latent_parallel", "train.timeout_s", "train.log_every", "train.checkpoint_steps",
)  # fmt: skip
"""What no result depends on, or what the sweep sets itself."""
_MOST = 10_000


@dataclass(frozen=True)
class SweepPoint:
    """One choice of values, as they are spelled, and the configuration with them."""

    values: Mapping[str, str]
    config: Config


def check_axes(axes: Mapping[str, Sequence[str]]) -> None:
    """Raise `ConfigError` for a grid that is empty, too large, or of settings that are fixed."""
    if not axes:
        raise ConfigError(
            "There is nothing to sweep over. Give a setting several values, as in "
            "dictionary.k=16,32,64, or choose a grid, as in sweep=l0."
        )
    known = setting_names()
    for key, values in axes.items():
        if key not in known:
            near = get_close_matches(key, known, n=3)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise ConfigError(f"The grid has {key!r}, which is no setting.{hint}")
        if key in _FIXED or key.partition(".")[0] in _FIXED:
            raise ConfigError(
                f"{key} cannot be varied in a sweep: results do not depend on it, or the sweep "
                "sets it itself. Give it one value."
            )
        if len(set(values)) < len(values) or not values:
            raise ConfigError(
                f"{key} has the values {', '.join(values) or 'of an empty list'}. At least one is "
                "wanted, and each once."
            )
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > _MOST:
        raise ConfigError(
            f"The grid has {count:,} points. At most {_MOST:,} are wanted: split it into sweeps."
        )


def name_points(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """The points with names of their own: of the dictionary, and of the run for other activations.

    A setting that changes the activations (model, data, hooks, store) moves the point to a run
    beneath that of the sweep.
    """
    labels = [_labels(point.values) for point in points]
    named = []
    for point, (run, dictionary) in zip(points, labels, strict=True):
        config = point.config
        url = "/".join([config.url.rstrip("/"), *([run] if run else [])])
        name = "-".join([config.dictionary.name, *([dictionary] if dictionary else [])])
        chosen = replace(config.dictionary, name=name)
        named.append(replace(point, config=replace(config, url=url, dictionary=chosen)))
    called = Counter((point.config.url, point.config.dictionary.name) for point in named)
    for (url, name), times in called.items():
        if times > 1:
            raise ConfigError(
                f"{times} points of the grid would be called {name} in {url}, since their "
                "values differ in special characters alone. Sweep over them one after another."
            )
    return named


def _labels(values: Mapping[str, str]) -> tuple[str, str]:
    """What a point is called: for settings of the activations, and for those of the dictionary."""
    short = Counter(key.rpartition(".")[2] for key in values)
    run: list[str] = []
    dictionary: list[str] = []
    for key, value in values.items():
        last = key.rpartition(".")[2]
        said = last if short[last] == 1 else key.replace(".", "_")
        text = re.sub(r"[^A-Za-z0-9.+-]+", "_", value).strip("_") or "none"
        # A choice of a group says what it is.
        label = text if "." not in key else f"{said}{'' if text[0].isdigit() else '_'}{text}"
        of_dictionary = key.partition(".")[0] in _OF_THE_DICTIONARY
        (dictionary if of_dictionary else run).append(label)
    return "-".join(run), "-".join(dictionary)
