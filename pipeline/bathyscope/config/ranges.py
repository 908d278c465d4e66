"""Hook points of several layers in one word: `mlp_in.0-29`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bathyscope.errors import ConfigError

_RANGE = re.compile(r"([a-z_]+)\.(\d+)-(\d+)")


def expanded(names: Sequence[str]) -> list[str]:
    """The names with every `alias.first-last` as one name for each layer, both ends included.

    Raises `ConfigError` for a range that is empty.
    """
    found: list[str] = []
    for name in names:
        match = _RANGE.fullmatch(name)
        if match is None:
            found.append(name)
            continue
        alias, first, last = match[1], int(match[2]), int(match[3])
        if last < first:
            raise ConfigError(f"{name!r} is a range that ends before it begins. Swap its ends.")
        found += [f"{alias}.{layer}" for layer in range(first, last + 1)]
    return found


def collapsed(names: Sequence[str]) -> list[str]:
    """The names with three or more aliases of consecutive layers as one range."""
    found: list[list[str]] = []
    for name in names:
        if found and _follows(found[-1][-1], name):
            found[-1].append(name)
        else:
            found.append([name])
    return [
        each
        for run in found
        for each in (run if len(run) < 3 else [f"{run[0]}-{run[-1].rpartition('.')[2]}"])
    ]


def _follows(before: str, name: str) -> bool:
    alias, _, layer = before.rpartition(".")
    return layer.isdecimal() and name == f"{alias}.{int(layer) + 1}"
