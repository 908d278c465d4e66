"""A field of the configuration: its default, a line of help, and the numbers that it may be."""

from __future__ import annotations

from dataclasses import field
from typing import Any

ABOVE, LEAST = "above", "least"
"""Keys of a field's metadata: a number above this, or no smaller than this, is wanted."""


def option(default: Any, help: str, **bounds: float) -> Any:
    """A field with a default and a line of help."""
    metadata = {"help": help, **bounds}
    if isinstance(default, list | dict):
        kind = type(default)
        return field(default_factory=lambda: kind(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def positive(default: Any, help: str) -> Any:
    """A field that holds a finite number above 0."""
    return option(default, help, **{ABOVE: 0})


def not_negative(default: Any, help: str) -> Any:
    """A field that holds a finite number from 0 on, or nothing where its default is None."""
    return option(default, help, **{LEAST: 0})
