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
