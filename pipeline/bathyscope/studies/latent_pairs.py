"""Sums over rows for the Pearson correlation of each pair of latents that are active together.

With activations a, b ≥ 0 of two dictionaries on the same n rows,

    r_ij = (n Σa_i b_j - Σa_i Σb_j) / √((n Σa_i² - (Σa_i)²)(n Σb_j² - (Σb_j)²))

needs Σa_i b_j only for pairs that are active together in some row: all others have r < 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from bathyscope.metrics.arrays import pack, unpack
from bathyscope.studies.sparse_rows import (
    Floats,
    Integers,
    SparseTotal,
    among_largest,
    column_sums,
    entries_at,
    pack_sparse,
    rows_of_entries,
    sparse_rows,
    unpack_sparse,
)

# k x k products of a chunk of rows before they are added up: a few hundred MB.
_CHUNK_PRODUCTS = 1 << 24
# Less variance than this share of Σa² is rounding.
_CONSTANT = 1e-12


class Side(NamedTuple):
    """Sums of one dictionary's latents [latents]."""

    sums: Floats
    squares: Floats
    firings: Integers

    def scatter(self, num_rows: int) -> Floats:
        """Σ(a - ā)², 0 for a latent that is constant up to rounding."""
        scatter = self.squares - self.sums**2 / max(num_rows, 1)
        return np.where(scatter > _CONSTANT * self.squares, scatter, 0.0)

    def minus(self, other: Side) -> Side:
        """These sums without those of some of the rows."""
        return Side(
            self.sums - other.sums, self.squares - other.squares, self.firings - other.firings
        )

    def usable(self, num_rows: int, min_firings: int) -> NDArray[np.bool_]:
        """Which latents fire often enough and vary."""
        return (self.firings >= max(min_firings, 1)) & (self.scatter(num_rows) > 0)


class LatentPairs:
    """Streaming sums over paired rows of two dictionaries' latents.

    More than `max_pairs` pairs that are active together (about 16 bytes each) are cut to the
    largest Σab/√(Σa² Σb²) of each latent of the first dictionary. `num_pruned` counts the cuts: a
    pair that comes back counts anew, so correlations are then lower bounds.
    """

    def __init__(self, num_a: int, num_b: int, *, max_pairs: int = 1 << 28) -> None:
        if num_a < 1 or num_b < 1 or max_pairs < 2 * num_a:
            raise ValueError(
                f"{num_a} and {num_b} latents, max_pairs {max_pairs}: wanted at least one latent "
                f"on both sides and max_pairs at least {2 * max(num_a, 1)}, two per latent"
            )
        self.num_rows = 0
        self.num_pruned = 0
        self.max_pairs = max_pairs
        self.a, self.b = (
            Side(np.zeros(num), np.zeros(num), np.zeros(num, dtype=np.int64))
            for num in (num_a, num_b)
        )
        self._products = SparseTotal((num_a, num_b), patience=_CHUNK_PRODUCTS)

    @property
    def products(self) -> csr_array:
        """Σa_i b_j, float64 [latents of a, latents of b]; stored where both are active."""
        if self._products.value.nnz > self.max_pairs:
            self._prune()
        return self._products.value

    def update(
        self, values_a: Tensor, indices_a: Tensor, values_b: Tensor, indices_b: Tensor
    ) -> None:
        """Add rows: top-k latents [rows, k] of both, row r of the same place in the text.

        Raises as `sparse_rows`, and `ValueError` for other numbers of rows.
        """
        a = sparse_rows(values_a, indices_a, len(self.a.sums), name="a")
        b = sparse_rows(values_b, indices_b, len(self.b.sums), name="b")
        if a.shape[0] != b.shape[0]:
            raise ValueError(
                f"a has {a.shape[0]} rows and b {b.shape[0]}: wanted latents of the same rows"
            )
        step = max(1, _CHUNK_PRODUCTS // max(1, values_a.shape[1] * values_b.shape[1]))
        for start in range(0, a.shape[0], step):
            some = slice(start, start + step)
            self._append(csr_array(a[some].T @ b[some]))
        self.num_rows += a.shape[0]
        self._add(column_sums(a), column_sums(b))

    def merge(self, other: LatentPairs) -> None:
        """Add the rows of another accumulator over as many latents."""
        if other._products.shape != self._products.shape:
            raise ValueError(
                f"cannot merge {other._products.shape} latents into {self._products.shape}"
            )
        products = other.products
        self.num_rows += other.num_rows
        self.num_pruned += other.num_pruned
        self._add(other.a, other.b)
        self._append(products)

    def without(self, other: LatentPairs) -> LatentPairs:
        """Return what is left when the rows of `other`, all of them seen here, are taken away."""
        if self.num_pruned or other.num_pruned:
            raise ValueError("pairs were pruned, so rows cannot be taken away: raise max_pairs")
        made = LatentPairs(*self._products.shape, max_pairs=self.max_pairs)
        made.num_rows = self.num_rows - other.num_rows
        made.a, made.b = self.a.minus(other.a), self.b.minus(other.b)
        made._products.put(csr_array(self.products - other.products))
        return made

    def correlations(self, in_a: Integers, in_b: Integers) -> Floats:
        """Return r of pairs of latents [pairs], also of pairs that are never active together.

        NaN where one of the two does not vary.
        """
        products = entries_at(self.products, in_a, in_b)
        return pearson(self.a, self.b, self.num_rows, products, in_a, in_b)

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values: 16 bytes per pair."""
        return {
            "num_rows": self.num_rows,
            "num_pruned": self.num_pruned,
            "max_pairs": self.max_pairs,
            "a": [pack(part) for part in self.a],
            "b": [pack(part) for part in self.b],
            "products": pack_sparse(self.products),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the accumulator that `to_dict` described."""
        products = unpack_sparse(state["products"])
        made = cls(*products.shape, max_pairs=int(state["max_pairs"]))
        made._products.put(products)
        made.num_rows, made.num_pruned = int(state["num_rows"]), int(state["num_pruned"])
        made.a, made.b = (Side(*(unpack(part) for part in state[side])) for side in "ab")
        return made

    def _add(self, a: tuple[Any, ...], b: tuple[Any, ...]) -> None:
        self.a = Side(*(own + new for own, new in zip(self.a, a, strict=True)))
        self.b = Side(*(own + new for own, new in zip(self.b, b, strict=True)))

    def _append(self, products: csr_array) -> None:
        self._products.add(products)
        if self._products.num_added > self.max_pairs:
            self._prune()

    def _prune(self) -> None:
        products = self._products.value
        rows, columns = rows_of_entries(products), products.indices
        size = np.sqrt(self.a.squares[rows] * self.b.squares[columns])
        cosines = products.data / np.maximum(size, np.finfo(float).tiny)
        most = self.max_pairs // (2 * len(self.a.sums))
        kept = among_largest(rows, cosines, most)
        self.num_pruned += int((~kept).sum())
        products.data[~kept] = 0
        products.eliminate_zeros()


def pearson(
    a: Side, b: Side, num_rows: int, products: Floats, in_a: Integers, in_b: Integers
) -> Floats:
    """r of pairs of latents from their Σab [pairs]; NaN where one does not vary."""
    covered = products - a.sums[in_a] * b.sums[in_b] / max(num_rows, 1)
    size = np.sqrt(a.scatter(num_rows)[in_a] * b.scatter(num_rows)[in_b])
    return np.divide(covered, size, out=np.full(len(covered), np.nan), where=size > 0)
