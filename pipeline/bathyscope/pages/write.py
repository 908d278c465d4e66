"""Writes a report: pages, assets and data, through any store's put.

`index.html` goes last: a folder that has one has the whole report.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import resources

from bathyscope.pages.blocks import Put, write_latents
from bathyscope.pages.data import LatentPage, ReportData
from bathyscope.pages.index import index_page

logger = logging.getLogger(__name__)


def write_report(put: Put, data: ReportData, *, latents: Iterable[LatentPage]) -> dict[str, int]:
    """Writes the report and returns the size in bytes of each file, by name.

    `put(name, content)` stores one file; names are relative and use "/". `latents` is read once,
    64 pages at a time, and must give every latent in order. Raises `StoreError` where it does not.
    """
    sizes: dict[str, int] = {}

    def counted(name: str, content: bytes) -> None:
        put(name, content)
        sizes[name] = len(content)

    for name, content in _assets():
        counted(f"assets/{name}", content)
    write_latents(
        counted, latents, num_latents=data.num_latents, density_tokens=data.density_tokens
    )
    counted("index.html", index_page(data).encode("utf-8"))
    logger.info(
        "report: %d latents in %d files, %.1f MB",
        data.num_latents,
        len(sizes),
        sum(sizes.values()) / 1e6,
    )
    return sizes


def _assets() -> list[tuple[str, bytes]]:
    folder = resources.files("bathyscope.pages") / "static"
    files = [entry for entry in folder.iterdir() if entry.name.endswith((".css", ".js"))]
    return sorted((entry.name, entry.read_bytes()) for entry in files)
