"""Sums of single documents: what one document adds to a night, before it is added.

Tokens of one document are not independent, so the document is the unit of every test. Rows flow in;
integers per document and per (document, latent) flow out. They are integers because sums of
integers are exact: any cut of the rows into batches and units gives the same night.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bathyscope.errors import NonFiniteError
from bathyscope.features.firings import flatten_rows

Ints = NDArray[np.int64]

ACTIVATION_STEPS = 1 << 20
"""Integer steps of one activation scale."""
NORM_STEPS = 1 << 24
"""Integer steps of one squared-norm scale."""
# Half of int64's bits: sums of two documents' parts still fit.
_LARGEST = 1 << 62


class Scales(NamedTuple):
    """What a night's integers are multiples of; the same for all nights that are compared."""

    activation: float
    """A typical activation of a firing latent; 2^-20 of it is one step."""
    norm: float
    """A typical squared norm of a centred row; 2^-24 of it is one step. 1 where nothing is
    reconstructed."""

    def check(self) -> None:
        """Raise `ValueError` unless both are finite and above 0."""
        if not all(np.isfinite(scale) and scale > 0 for scale in self):
            raise ValueError(
                f"scales are {self.activation} and {self.norm}: wanted a typical activation and "
                "a typical squared norm, finite and above 0"
            )


class Documents(NamedTuple):
    """Sums of documents, in order; entries are sorted by document and latent."""

    ids: Ints
    """Number of each document [documents], ascending."""
    tokens: Ints
    """Its rows [documents]."""
    errors: Ints
    """Its squared error in norm steps [documents]."""
    norms: Ints
    """Its squared centred norm in norm steps [documents]."""
    offsets: Ints
    """Where its entries begin [documents + 1]."""
    latents: Ints
    """Latent of each entry [entries]."""
    firings: Ints
    """Rows of the document in which the latent fires [entries]."""
    activations: Ints
    """Sum of the latent's activations there, in activation steps [entries]."""

    def part(self, start: int, stop: int) -> Documents:
        """Return the documents from one place to another, which is left out."""
        offsets = self.offsets[start : stop + 1]
        ids, tokens, errors, norms = (column[start:stop] for column in self.columns())
        latents, firings, activations = (
            column[offsets[0] : offsets[-1]] for column in self.entries()
        )
        offsets = offsets - offsets[0]
        return Documents(ids, tokens, errors, norms, offsets, latents, firings, activations)

    def columns(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Return what there is per document."""
        return self.ids, self.tokens, self.errors, self.norms

    def entries(self) -> tuple[Ints, Ints, Ints]:
        """Return what there is per document and latent."""
        return self.latents, self.firings, self.activations

    def join(self, later: Documents) -> Documents:
        """Return these documents followed by others; one that goes on there is added up.

        Raises `ValueError` for documents that come before these.
        """
        if not len(self.ids) or not len(later.ids):
            return later if not len(self.ids) else self
        if later.ids[0] < self.ids[-1]:
            raise ValueError(
                f"document {later.ids[0]} follows document {self.ids[-1]}: wanted documents in "
                "order; join units in the order of their rows"
            )
        ids, tokens, errors, norms = (
            np.concatenate(both) for both in zip(self.columns(), later.columns(), strict=True)
        )
        place, ids = _places(ids)
        of_entries = np.concatenate([self.of_entries(), later.of_entries() + len(self.ids)])
        entries = (
            np.concatenate(both) for both in zip(self.entries(), later.entries(), strict=True)
        )
        size = len(ids)
        sums = [_added(place, column, size) for column in (tokens, errors, norms)]
        return _grouped(ids, sums, place[of_entries], *entries)

    def of_entries(self) -> Ints:
        """Return the place of each entry's document [entries]."""
        return np.repeat(np.arange(len(self.ids)), np.diff(self.offsets))

    def to_arrays(self, prefix: str) -> dict[str, Ints]:
        """Return the columns as arrays named with a prefix."""
        return {f"{prefix}{name}": column for name, column in self._asdict().items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], prefix: str) -> Self:
        """Return what `to_arrays` described."""
        return cls(*(arrays[f"{prefix}{name}"].astype(np.int64) for name in cls._fields))


def no_documents() -> Documents:
    """Return documents that are none."""
    none = np.zeros(0, np.int64)
    return Documents(none, none, none, none, np.zeros(1, np.int64), none, none, none)


def sum_documents(
    values: NDArray[Any],
    indices: NDArray[Any],
    documents: NDArray[Any],
    *,
    num_latents: int,
    scales: Scales,
    errors: NDArray[Any] | None = None,
    norms: NDArray[Any] | None = None,
) -> Documents:
    """Return the sums of the documents of top-k rows.

    `values` float [n, k] (0 is padding), `indices` integer [n, k], `documents` integer [n] in
    ascending order, `errors` ‖x - x̂‖² and `norms` ‖x - μ‖² float [n], μ the same every night.
    Raises `ValueError` for other shapes and orders, and `NonFiniteError` for numbers that are not
    finite or too large for the scales.
    """
    firings = flatten_rows(values, indices, np.arange(len(values)), num_latents=num_latents)
    documents = np.asarray(documents)
    if documents.shape != (len(values),):
        raise ValueError(f"documents are {documents.shape}: wanted the document of each row")
    if not len(documents):
        return no_documents()
    documents = documents.astype(np.int64)
    if (back := np.flatnonzero(np.diff(documents) < 0)).size:
        row = int(back[0])
        raise ValueError(
            f"row {row + 1} is of document {documents[row + 1]} and the row before of "
            f"{documents[row]}: wanted documents in order"
        )
    place, ids = _places(documents)
    size = len(ids)
    steps = _steps(firings.values, scales.activation / ACTIVATION_STEPS, "activation")
    sums = [np.bincount(place, minlength=size).astype(np.int64)]
    for rows, name in ((errors, "squared error"), (norms, "squared norm")):
        if rows is None:
            sums.append(np.zeros(size, np.int64))
        elif np.shape(rows) != documents.shape:
            raise ValueError(f"{name}s are {np.shape(rows)}: wanted one per row, {len(documents)}")
        else:
            sums.append(_added(place, _steps(rows, scales.norm / NORM_STEPS, name), size))
    ones = np.ones(len(steps), np.int64)
    return _grouped(ids, sums, place[firings.rows], firings.latents, ones, steps)


def _grouped(
    ids: Ints, sums: list[Ints], place: Ints, latents: Ints, firings: Ints, activations: Ints
) -> Documents:
    """Add up the entries of the same document and latent, and sort them."""
    width = int(latents.max(initial=0)) + 1
    order = np.argsort(place * width + latents, kind="stable")
    place, latents = place[order], latents[order]
    new = np.ones(len(place), bool)
    new[1:] = (np.diff(place) != 0) | (np.diff(latents) != 0)
    starts = np.flatnonzero(new)
    if len(starts):
        firings = np.add.reduceat(firings[order], starts)
        activations = np.add.reduceat(activations[order], starts)
    offsets = np.searchsorted(place[starts], np.arange(len(ids) + 1)).astype(np.int64)
    tokens, errors, norms = sums
    latents = latents[starts]
    return Documents(ids, tokens, errors, norms, offsets, latents, firings, activations)


def _places(documents: Ints) -> tuple[Ints, Ints]:
    """The place of each row's document among the different ones, and those."""
    new = np.diff(documents, prepend=documents[0]) != 0
    return np.cumsum(new), documents[np.flatnonzero(np.r_[True, new[1:]])]


def _added(place: Ints, column: Ints, size: int) -> Ints:
    sums = np.zeros(size, np.int64)
    np.add.at(sums, place, column)
    return sums


def _steps(numbers: NDArray[Any], step: float, name: str) -> Ints:
    numbers = np.asarray(numbers, dtype=np.float64)
    total = float(np.abs(numbers).sum()) / step
    if not np.isfinite(total):
        raise NonFiniteError(f"a row has a {name} that is not finite: encode these rows again")
    if total > _LARGEST:
        raise NonFiniteError(
            f"{name}s up to {np.abs(numbers).max():.3g} are too large for steps of {step:.3g}: "
            "pass scales near the typical size"
        )
    return np.rint(numbers / step).astype(np.int64)
