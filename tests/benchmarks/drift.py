#!/usr/bin/env python
"""False alarms and power of drift between nights, on real text through a model and a dictionary.

    .venv/bin/python tests/benchmarks/drift.py --model FOLDER --dictionary FOLDER

FOLDER is a model of a ladder (`bathyscope ladder ladder=cpu`), and a TopK dictionary of its
activations. Documents are the installed documentation, dealt at random into nights of one source,
so what is raised there is a false alarm. Planted are: headers of C++ among the documents of a
night, a latent's direction taken out of the model, a document that repeats one token 10,000 times.
`--folder` keeps the documents' sums, so that a second call takes a minute. Last comes a line of
JSON; exits with 1 where a fresh night is raised, or what has power above 0.99 is missed.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bathyscope.features.drift.changes import Floors
from bathyscope.features.drift.compare import Drift, compare
from bathyscope.features.drift.documents import Documents, Scales
from bathyscope.features.drift.power import Design, detectable_ratio, power
from bathyscope.features.drift.reference import Reference
from bathyscope.features.drift.totals import Totals
from bench import conclude, folder
from drift_text import (
    Subject,
    documents_of,
    headers,
    night_of,
    open_subject,
    take,
    texts_of,
    without_direction,
)

PACKAGES = ("stdlib", "topics", "numpy", "torch")
NO_FLOORS = Floors(density_ratio=1.0, density=0.0, activation_ratio=1.0, series_ratio=1.0)
FRESH, RESHUFFLED, EARLIER = 50, 100, 3
ERRORS = (1e-4, 0.05, 0.5)
SHARES = (0.01, 0.02, 0.05, 0.1)
Places = NDArray[np.int64]


class Source:
    """Documents of one source, dealt into nights."""

    def __init__(self, documents: Documents, like: Totals, seed: int = 0) -> None:
        self.documents, self.like = documents, like
        self.rng = np.random.default_rng(seed)

    def deal(self, sizes: Sequence[int]) -> list[Totals]:
        """Nights of different documents."""
        order = self.rng.permutation(len(self.documents.ids))
        ends = np.cumsum([0, *sizes])
        assert ends[-1] <= len(order), f"{ends[-1]} documents are needed, {len(order)} are there"
        return [
            night_of(self.documents, order[a:b], self.like) for a, b in itertools.pairwise(ends)
        ]

    def some_of(self, other: Documents, number: int) -> Totals:
        """A few documents of another source."""
        return night_of(other, self.rng.permutation(len(other.ids))[:number], self.like)

    def shares(self, documents: Documents) -> NDArray[np.float64]:
        """Share of documents in which each latent fires."""
        night = night_of(documents, np.arange(len(documents.ids)), self.like)
        return night.firing_documents() / night.documents


def reference_of(nights: Sequence[Totals]) -> Reference:
    """The reference that has these nights."""
    made = Reference()
    for night in nights:
        made.add(night)
    return made


def fresh(source: Source) -> dict[str, Any]:
    """Fifty nights against one reference, then many references with a night each."""
    size = len(source.documents.ids)
    small = int(0.6 * size) // FRESH
    nights = source.deal([int(0.4 * size) // EARLIER] * EARLIER + [small] * FRESH)
    reference = reference_of(nights[:EARLIER])
    figures: dict[str, Any] = {"fresh_nights": FRESH, "documents_each": small}
    for error in ERRORS[:2]:
        raised = sum(compare(night, reference, error=error).raised for night in nights[EARLIER:])
        figures[f"raised_at_{error}"] = raised
    raised = dict.fromkeys(ERRORS, 0)
    per_night = size // (EARLIER + 1)
    for number in range(RESHUFFLED):
        # One earlier night every second time: documents alone, without a variance between nights.
        *old, night = source.deal([per_night] * (EARLIER + 1))
        reference = reference_of(old if number % 2 else old[:1])
        for error in ERRORS:
            raised[error] += compare(night, reference, error=error, floors=NO_FLOORS).raised
    figures["reshuffled"] = RESHUFFLED
    figures |= {f"reshuffled_raised_without_floors_at_{e}": n for e, n in raised.items()}
    return figures


def heavy(source: Source, document: Documents) -> dict[str, Any]:
    """The same with a document in each night that repeats one token."""
    size = len(source.documents.ids) // (2 * EARLIER)
    raised, plain = 0, 0.0
    for _ in range(10):
        *old, night = source.deal([size] * (EARLIER + 1))
        reference = reference_of(old)
        night.add(document)
        raised += compare(night, reference).raised
        assert reference.totals is not None
        before = reference.totals.firings / reference.totals.tokens
        plain = max(plain, float((night.firings / night.tokens / np.maximum(before, 1e-6)).max()))
    tokens = int(document.tokens.sum())
    return {
        "tokens": tokens,
        "nights": 10,
        "raised": raised,
        "largest_plain_ratio": round(plain, 1),
    }


def topic(source: Source, other: Documents) -> list[dict[str, Any]]:
    """Other documents among those of a night, beside the power for what they change.

    The reference is one night, as the stated power is that of documents alone.
    """
    size = len(source.documents.ids) // (EARLIER + 1)
    latents = source.like.num_latents
    old_shares, new_shares = source.shares(source.documents), source.shares(other)
    design = Design(size, EARLIER * size, latents, tokens=1.0, firings=1.0)
    found = []
    for share in SHARES:
        ratios = 1 + share * (new_shares / np.maximum(old_shares, 1e-9) - 1)
        powers = [
            power(design, float(q), float(min(r, 1 / q))) if q > 0 and r > 1 else 0.0
            for q, r in zip(old_shares, ratios, strict=True)
        ]
        *old, night = source.deal([EARLIER * size, size - int(share * size)])
        night.merge(source.some_of(other, int(share * size)))
        drift = compare(night, reference_of(old))
        reported = [change.latent for change in drift.latents]
        sure = {int(latent) for latent in np.flatnonzero(np.array(powers) > 0.99)}
        found.append(
            {
                "share": share,
                "reported": len(reported),
                "expected_by_documents": round(sum(powers), 1),
                "power_above_0.99": len(sure),
                "of_these_missed": len(sure - set(reported)),
                "of_the_topic": int((new_shares > old_shares)[reported].sum()),
                "first": _first(drift),
            }
        )
    return found


def removed(
    source: Source, subject: Callable[[], Subject], texts: Sequence[str], cache: Path
) -> list[dict[str, Any]]:
    """Latents whose direction is taken out of the model: rank in the report, and what else.

    `texts` are the first documents of the source; the reference has the others.
    """
    places = np.arange(len(texts), len(source.documents.ids))
    source = Source(take(source.documents, places), source.like)
    size = len(places) // EARLIER
    share = source.shares(source.documents)
    found = []
    for wanted in (0.05, 0.3):
        latent = int(np.abs(share - wanted).argmin())

        def changed(latent: int = latent) -> Documents:
            altered = subject()
            layers = int(altered.point.name.split(".")[1]) + 1
            without_direction(altered.model.model, altered.dictionary.W_dec[latent], layers)
            return documents_of(altered, texts)

        documents = kept(cache / f"removed-{latent}.npz", changed)
        old = source.deal([size] * EARLIER)
        night = night_of(documents, np.arange(len(documents.ids)), source.like)
        drift = compare(night, reference_of(old))
        order = [change.latent for change in drift.latents]
        found.append(
            {
                "latent": latent,
                "share_of_documents": round(float(share[latent]), 3),
                "rank": order.index(latent) + 1 if latent in order else None,
                "reported": len(order),
                "first": _first(drift),
                "series": [series.name for series in drift.series if series.changed],
            }
        )
    return found


def uneven(source: Source, other: Documents) -> dict[str, Any]:
    """Nights whose share of headers varies from 0 to 10 %: the same source, uneven of itself."""
    size = len(source.documents.ids) // 10
    raised = {"one_earlier_night": 0, "eight_earlier_nights": 0}
    for _ in range(10):
        nights = []
        for night in source.deal([size] * 9):
            night.merge(source.some_of(other, int(source.rng.uniform(0, 0.1) * size)))
            nights.append(night)
        raised["one_earlier_night"] += compare(nights[8], reference_of(nights[:1])).raised
        raised["eight_earlier_nights"] += compare(nights[8], reference_of(nights[:8])).raised
    return {"nights": 10, **raised}


def power_table() -> list[list[Any]]:
    """Power for a million latents: documents of the night, density, ratios, smallest ratio."""
    ratios = (1.25, 1.5, 2.0, 4.0, 0.0)
    print("documents  density  firings " + "".join(f"{f'x {r:g}':>8}" for r in ratios) + "  found")
    rows = []
    for documents in (1_000, 10_000, 100_000, 1_000_000):
        for density, firings in ((1e-5, 2.0), (1e-4, 3.0), (1e-3, 6.0), (1e-2, 20.0)):
            design = Design(documents, 7 * documents, 1_000_000, firings=firings)
            found = [round(power(design, density, ratio), 3) for ratio in ratios]
            smallest = round(detectable_ratio(design, density), 2)
            rows.append([documents, density, firings, *found, smallest])
            figures = "".join(f"{power_:8.3f}" for power_ in found)
            print(f"{documents:9,} {density:8.0e} {firings:8.0f} {figures} {smallest:6.2f}")
    return rows


def cost(num_latents: int = 1_000_000) -> dict[str, Any]:
    """Seconds and memory of a comparison of a million latents with three earlier nights."""
    rng = np.random.default_rng(0)
    nights = []
    for _ in range(EARLIER + 1):
        night = Totals(num_latents, Scales(1.0, 1.0))
        offsets = np.arange(0, 2001) * 2000
        latents = np.sort(rng.integers(num_latents, size=(2000, 2000)), axis=1).ravel()
        lengths = rng.integers(200, 800, 2000)
        ones = np.ones(len(latents), np.int64)
        night.add(
            Documents(
                np.arange(2000), lengths, lengths, 4 * lengths, offsets, latents, ones, ones << 20
            )
        )
        nights.append(night)
    reference = reference_of(nights[:EARLIER])
    began = time.perf_counter()
    raised = compare(nights[EARLIER], reference).raised
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = sum(array.nbytes for array in nights[0].to_arrays().values())
    return {
        "latents": num_latents, "seconds": round(seconds, 1), "night_bytes": size,
        "peak_bytes": peak, "raised": raised,
    }  # fmt: skip


def kept(path: Path, make: Callable[[], Documents]) -> Documents:
    """Documents from a file, or made and written."""
    if not path.exists():
        np.savez(path, **make().to_arrays(""))
    with np.load(path) as arrays:
        return Documents.from_arrays(dict(arrays), "")


def _first(drift: Drift) -> list[Any]:
    """Latent, kind and ratio of the first three changes."""
    return [[c.latent, c.kind, round(c.ratio, 3)] for c in drift.latents[:3]]


def main() -> int:
    """Make or read the documents' sums, run all parts, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dictionary", type=Path, required=True)
    parser.add_argument("--hook", default="resid_post.1")
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=256, help="read of each document")
    parser.add_argument("--folder", type=Path, help="where sums of documents are kept")
    given = parser.parse_args()
    with folder(given.folder) as cache:
        texts = texts_of(PACKAGES, cache, given.documents)
        window = min(256, given.tokens)
        subject = partial(
            open_subject, given.model, given.dictionary, given.hook, texts[:200],
            window=window, most=given.tokens,
        )  # fmt: skip
        first = subject()
        like = Totals(first.dictionary.num_latents, first.scales)
        began = time.perf_counter()
        source = Source(kept(cache / "source.npz", lambda: documents_of(first, texts)), like)
        seconds = time.perf_counter() - began
        print(f"{len(source.documents.ids)} documents, {seconds:.0f} s", flush=True)
        other = kept(cache / "headers.npz", lambda: documents_of(first, headers(400)))
        repeated = first._replace(most=10_001)
        token = " the" * 12_000
        one = kept(cache / "heavy.npz", lambda: documents_of(repeated, [token]))
        figures: dict[str, Any] = {
            "documents": len(source.documents.ids),
            "tokens": int(source.documents.tokens.sum()),
            "latents": like.num_latents,
        }
        parts: dict[str, Callable[[], Any]] = {
            "fresh": lambda: fresh(source),
            "heavy": lambda: heavy(source, take(one, np.array([0]))),
            "topic": lambda: topic(source, other),
            "removed": lambda: removed(source, subject, texts[: given.documents // 4], cache),
            "uneven": lambda: uneven(source, other),
            "power": power_table,
            "cost": cost,
        }
        for name, part in parts.items():
            began = time.perf_counter()
            figures[name] = part()
            print(f"{name}: {figures[name]}, {time.perf_counter() - began:.0f} s", flush=True)
    conclude(figures)
    missed = sum(found["of_these_missed"] for found in figures["topic"])
    false = figures["fresh"]["raised_at_0.0001"] + figures["heavy"]["raised"]
    return int(bool(false or missed))


if __name__ == "__main__":
    sys.exit(main())
