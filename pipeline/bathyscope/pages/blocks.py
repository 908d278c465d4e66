"""The latents of a report as script files that a page opened from disk can load on demand.

`fetch` is refused on file://, so each block is a script that hands its value to
`bathyscope.receive(kind, number, value)`. There are three kinds, cut so that a report of a
million latents opens without reading them all:

- `numbers-0000.js`, 65,536 latents: density, mean and max as base64 of little-endian float32
  (NaN: not measured). 16 bytes per latent, all read at the start: sorting needs every one.
- `words-0000.js`, 4,096 latents: leading promoted tokens and peak tokens. Read for the rows in
  sight, and one after another by a text filter.
- `block-0000.js`, 64 latents: everything else. Read when a latent is looked at.

`latents.js` is written last and holds the counts. Latents are taken from a stream; at any time
one block of each kind is in memory.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import numpy as np

from bathyscope.errors import StoreError
from bathyscope.pages.data import Example, Histogram, LatentPage, Number

LATENTS_PER_NUMBERS = 65_536
LATENTS_PER_WORDS = 4_096
LATENTS_PER_BLOCK = 64
WORDS_PER_LATENT = 5

Put = Callable[[str, bytes], None]

_Item = TypeVar("_Item")
_Json = dict[str, object] | list[object] | str


def write_latents(
    put: Put, latents: Iterable[LatentPage], *, num_latents: int, density_tokens: int | None
) -> None:
    """Writes all blocks under `data/`, then `data/latents.js`.

    Raises `StoreError` unless latents come as 0, 1, … num_latents - 1.
    """
    numbers = _Blocks("numbers", LATENTS_PER_NUMBERS, encode=_numbers, put=put)
    words = _Blocks("words", LATENTS_PER_WORDS, encode=_all_words, put=put)
    pages = _Blocks("block", LATENTS_PER_BLOCK, encode=_pages, put=put)
    count = 0
    for page in latents:
        if page.latent != count or count >= num_latents:
            raise StoreError(
                f"The report got latent {page.latent} as number {count} of {num_latents} latents; "
                "it wants every latent once, in order, those without examples too. "
                "Check the feature tables of this run."
            )
        numbers.add((page.density, page.mean, page.max))
        words.add(_words(page))
        pages.add(page)
        count += 1
    if count != num_latents:
        raise StoreError(
            f"The report got {count} latents of a dictionary with {num_latents}; it wants every "
            "latent once, those without examples too. Check that the describe stage has finished."
        )
    for blocks in (numbers, words, pages):
        blocks.flush()
    sizes = {"numbers": LATENTS_PER_NUMBERS, "words": LATENTS_PER_WORDS, "block": LATENTS_PER_BLOCK}
    head: _Json = {"numLatents": count, "densityTokens": density_tokens, "sizes": sizes}
    put("data/latents.js", script("latents", 0, value=head))


def script(kind: str, number: int, *, value: _Json) -> bytes:
    """A value as a script: pure ASCII, without "<", so that no text in it can end anything."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    # Outside of its strings, JSON has no "<".
    text = text.replace("<", "\\u003c")
    return f'bathyscope.receive("{kind}",{number},{text});\n'.encode("ascii")


class _Blocks(Generic[_Item]):
    """Gathers items and writes a numbered script each time a block is full."""

    def __init__(
        self, kind: str, block_size: int, *, encode: Callable[[list[_Item]], _Json], put: Put
    ) -> None:
        self.kind, self.block_size, self.encode, self.put = kind, block_size, encode, put
        self.items: list[_Item] = []
        self.number = 0

    def add(self, item: _Item) -> None:
        self.items.append(item)
        if len(self.items) == self.block_size:
            self.flush()

    def flush(self) -> None:
        if not self.items:
            return
        name = f"data/{self.kind}-{self.number:04d}.js"
        self.put(name, script(self.kind, self.number, value=self.encode(self.items)))
        self.items = []
        self.number += 1


def _numbers(rows: list[tuple[Number, Number, Number]]) -> _Json:
    table = np.array(
        [[math.nan if value is None else value for value in row] for row in rows], dtype="<f4"
    )
    titles = ("density", "mean", "max")
    return {
        title: base64.b64encode(table[:, column].tobytes()).decode("ascii")
        for column, title in enumerate(titles)
    }


def _words(page: LatentPage) -> list[object]:
    promoted = [token for token, _ in page.promoted[:WORDS_PER_LATENT]]
    peaks = dict.fromkeys(example.tokens[example.peak] for example in page.examples)
    return [promoted, list(peaks)[:WORDS_PER_LATENT]]


def _all_words(rows: list[list[object]]) -> _Json:
    return [*rows]


def _pages(pages: list[LatentPage]) -> _Json:
    # Tokens repeat: a block stores each text once, and indices into that table.
    table: dict[str, int] = {}
    encoded = [_page(page, table=table) for page in pages]
    return {"strings": list(table), "pages": encoded}


def _page(page: LatentPage, *, table: dict[str, int]) -> dict[str, object]:
    return {
        "latent": page.latent,
        "density": _plain(page.density),
        "mean": _plain(page.mean),
        "max": _plain(page.max),
        "histogram": _histogram(page.histogram),
        "promoted": [[_index(text, table), _plain(value)] for text, value in page.promoted],
        "suppressed": [[_index(text, table), _plain(value)] for text, value in page.suppressed],
        "examples": [_example(example, table=table) for example in page.examples],
    }


def _example(example: Example, *, table: dict[str, int]) -> dict[str, object]:
    return {
        "band": _index(example.band, table),
        "item": example.item,
        "position": example.position,
        "document": _index(example.document, table),
        "split": _index(example.split, table),
        "tokens": [_index(token, table) for token in example.tokens],
        # Most activations are zero: only the others are stored, as (index, value).
        "active": [
            [index, _plain(value)] for index, value in enumerate(example.activations) if value != 0
        ],
        "peak": example.peak,
    }


def _histogram(histogram: Histogram | None) -> dict[str, object] | None:
    if histogram is None or not histogram.counts:
        return None
    edges = [_plain(edge) for edge in histogram.edges]
    return {"edges": edges, "counts": [int(count) for count in histogram.counts]}


def _index(text: str, table: dict[str, int]) -> int:
    return table.setdefault(text, len(table))


def _plain(value: Number) -> float | None:
    """Five significant digits, enough to read; None for what was not measured."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
