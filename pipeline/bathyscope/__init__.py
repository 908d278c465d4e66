"""Bathyscope looks inside large neural networks.

`bathyscope.open(url)` opens a run. Importing this package imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bathyscope.runs.run import Run

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(url: str) -> Run:
    """Open a run folder by path or URL.

    Raises `MissingArtifact` when nothing is there and `FormatVersionError` when a newer
    version wrote it.
    """
    from bathyscope.runs.run import Run

    return Run.open(url)
