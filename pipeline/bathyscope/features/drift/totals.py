"""What is kept of a night: counts and sums per latent over whole documents, integers all.

Totals of nights, and of parts of a night, merge by addition, exactly and in any order.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bathyscope.features.drift.documents import (
    ACTIVATION_STEPS,
    NORM_STEPS,
    Documents,
    Ints,
    Scales,
)
from bathyscope.features.drift.scores import (
    LARGEST_SCORE,
    NUM_CLASSES,
    SERIES,
    density_class,
    log_score,
)

_PLAIN = ("classes", "firings", "firing_squares", "token_firings", "series_documents")
# Σ of squared norms of 2^31 documents needs 2·62 + 31 bits.
_WIDE_BYTES = 32
_WIDE = ("errors", "norms", "error_squares", "error_norms", "norm_squares")


class Moments:
    """Number, sum, sum of squares and range of log scores, for each of several things."""

    def __init__(self, size: int) -> None:
        self.sums = np.zeros(size, np.int64)
        self.squares = np.zeros(size, np.int64)
        self.lowest = np.full(size, LARGEST_SCORE, np.int16)
        self.highest = np.full(size, -LARGEST_SCORE, np.int16)

    def add(self, places: Ints, scores: Ints) -> None:
        """Add one score to each of the places."""
        np.add.at(self.sums, places, scores)
        np.add.at(self.squares, places, scores * scores)
        np.minimum.at(self.lowest, places, scores.astype(np.int16))
        np.maximum.at(self.highest, places, scores.astype(np.int16))

    def merge(self, other: Moments) -> None:
        """Add the scores of others."""
        self.sums += other.sums
        self.squares += other.squares
        np.minimum(self.lowest, other.lowest, out=self.lowest)
        np.maximum(self.highest, other.highest, out=self.highest)

    def to_arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the state as arrays named with a prefix."""
        return {f"{prefix}{name}": array for name, array in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], prefix: str) -> Self:
        """Return what `to_arrays` described; the arrays are copied."""
        made = cls(0)
        for name in vars(made):
            setattr(made, name, arrays[f"{prefix}{name}"].copy())
        return made


class Totals:
    """Sums over documents. Per latent: how often, how densely and how strongly it fires.

    92 bytes per latent: 92 MB for a million. `classes` [latents, 12] counts documents by density;
    `firings` Σ f, `firing_squares` Σ f², `token_firings` Σ n f are what a ratio estimator with
    documents as clusters needs; `activation` has, over documents in which the latent fires, the log
    score of its mean activation there.
    """

    def __init__(self, num_latents: int, scales: Scales) -> None:
        if num_latents < 1:
            raise ValueError(f"num_latents is {num_latents}: wanted at least 1")
        scales.check()
        self.num_latents, self.scales = num_latents, scales
        self.documents = self.tokens = self.token_squares = 0
        self.wide = dict.fromkeys(_WIDE, 0)
        """Sums of errors and norms and of their products, Python integers: they pass 2^63."""
        self.classes = np.zeros((num_latents, NUM_CLASSES), np.int32)
        self.firings = np.zeros(num_latents, np.int64)
        self.firing_squares = np.zeros(num_latents, np.int64)
        self.token_firings = np.zeros(num_latents, np.int64)
        self.activation = Moments(num_latents)
        self.series_documents = np.zeros(len(SERIES), np.int64)
        self.series = Moments(len(SERIES))

    def firing_documents(self) -> Ints:
        """Return the number of documents in which each latent fires [latents]."""
        return self.classes.sum(axis=1, dtype=np.int64)

    def add(self, documents: Documents) -> None:
        """Add whole documents. Raises `ValueError` for a latent that there is not."""
        if len(documents.latents) and documents.latents.max() >= self.num_latents:
            raise ValueError(
                f"latent {documents.latents.max()} of {self.num_latents}: these documents are of "
                "another dictionary"
            )
        self._add_documents(documents)
        tokens = documents.tokens[documents.of_entries()]
        latents, fired = documents.latents, documents.firings
        place = latents * NUM_CLASSES + density_class(fired, tokens) - 1
        np.add.at(self.classes.reshape(-1), place, 1)
        np.add.at(self.firings, latents, fired)
        np.add.at(self.firing_squares, latents, fired * fired)
        np.add.at(self.token_firings, latents, tokens * fired)
        means = documents.activations / ACTIVATION_STEPS
        self.activation.add(latents, log_score(means, fired))

    def merge(self, other: Totals) -> None:
        """Add the documents of others. Raises `ValueError` for other latents or scales."""
        self.check_same(other)
        self._count(other.documents, other.tokens, other.token_squares)
        for name, sum_ in other.wide.items():
            self.wide[name] += sum_
        for name in _PLAIN:
            array = getattr(self, name)
            array += getattr(other, name)
        self.activation.merge(other.activation)
        self.series.merge(other.series)

    def check_same(self, other: Totals) -> None:
        """Raise `ValueError` for another number of latents or other scales."""
        if (self.num_latents, self.scales) != (other.num_latents, other.scales):
            raise ValueError(
                f"cannot add {other.num_latents} latents with {other.scales} to "
                f"{self.num_latents} with {self.scales}: wanted one dictionary and one choice of "
                "scales for all nights"
            )

    def to_arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Return the state as named arrays; what a store or an npz without pickle can hold."""
        wide = [self.wide[name].to_bytes(_WIDE_BYTES, "little") for name in _WIDE]
        arrays: dict[str, NDArray[Any]] = {
            "counts": np.array([self.documents, self.tokens, self.token_squares]),
            "scales": np.array(self.scales),
            "wide": np.frombuffer(b"".join(wide), np.uint8).reshape(len(_WIDE), -1),
        }
        for name in _PLAIN:
            arrays[name] = getattr(self, name)
        arrays |= self.activation.to_arrays("activation.") | self.series.to_arrays("series.")
        return {prefix + name: array for name, array in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], prefix: str = "") -> Self:
        """Return what `to_arrays` described; the arrays are copied."""
        made = cls(len(arrays[f"{prefix}firings"]), Scales(*arrays[f"{prefix}scales"].tolist()))
        made._count(*arrays[f"{prefix}counts"].tolist())
        for name, row in zip(_WIDE, arrays[f"{prefix}wide"], strict=True):
            made.wide[name] = int.from_bytes(row.tobytes(), "little")
        for name in _PLAIN:
            setattr(made, name, arrays[prefix + name].copy())
        made.activation = Moments.from_arrays(arrays, f"{prefix}activation.")
        made.series = Moments.from_arrays(arrays, f"{prefix}series.")
        return made

    def _count(self, documents: int, tokens: int, token_squares: int) -> None:
        counts = self.documents + documents, self.tokens + tokens
        squares = self.token_squares + token_squares
        # Σ n² bounds Σ f² and Σ n f of every latent, the number of documents every class.
        if squares >= 1 << 63 or counts[0] >= 1 << 31:
            raise OverflowError(
                f"{counts[0]} documents with a sum of squared lengths of {squares}: sums would "
                "overflow; compare fewer nights at once"
            )
        self.documents, self.tokens, self.token_squares = *counts, squares

    def _add_documents(self, documents: Documents) -> None:
        _, tokens, errors, norms = documents.columns()
        lengths = tokens.tolist()
        self._count(len(lengths), sum(lengths), sum(n * n for n in lengths))
        # Products of these pass int64, hence Python's integers; a document costs a microsecond.
        for error, norm in zip(errors.tolist(), norms.tolist(), strict=True):
            products = (error, norm, error * error, error * norm, norm * norm)
            for name, product in zip(_WIDE, products, strict=True):
                self.wide[name] += product
        fired = np.zeros(len(tokens), np.int64)
        np.add.at(fired, documents.of_entries(), documents.firings)
        # A document without a norm has no FVU, and there is none where nothing is reconstructed.
        measured = norms > 0
        everywhere = np.ones_like(measured)
        scores = {
            "tokens": (log_score(tokens, np.ones_like(tokens)), everywhere),
            "l0": (log_score(fired, tokens), everywhere),
            "norm": (log_score(norms / NORM_STEPS, tokens), measured),
            "fvu": (log_score(errors, np.maximum(norms, 1)), measured),
        }
        for number, name in enumerate(SERIES):
            score, has = scores[name]
            self.series.add(np.full(int(has.sum()), number), score[has])
            self.series_documents[number] += int(has.sum())
