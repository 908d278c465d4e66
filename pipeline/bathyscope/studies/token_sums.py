"""Sums of latents per token: what the current token alone says of each latent.

For n_t rows whose token is t, S[t, j] = Σ of latent j over them, kept where it is not 0. Entries
take 12 bytes; common tokens meet many latents, so fit on as many rows as memory allows, 10^7 for
10^6 latents, rather than on all.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from bathyscope.metrics.arrays import pack, unpack
from bathyscope.studies.latent_pairs import Side
from bathyscope.studies.sparse_rows import (
    SparseTotal,
    column_sums,
    pack_sparse,
    rows_of_entries,
    sparse_rows,
    unpack_sparse,
)


class TokenSums:
    """Streaming sums per token of one dictionary's latents, float64."""

    def __init__(self, num_tokens: int, num_latents: int) -> None:
        if num_tokens < 1 or num_latents < 1:
            raise ValueError(
                f"{num_tokens} tokens and {num_latents} latents: wanted at least 1 of both"
            )
        self.num_rows = 0
        self.rows = np.zeros(num_tokens, dtype=np.int64)
        """Rows of each token [tokens]."""
        self._sums = SparseTotal((num_tokens, num_latents))
        self.side = Side(
            np.zeros(num_latents), np.zeros(num_latents), np.zeros(num_latents, dtype=np.int64)
        )
        """Sums over all rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and latents."""
        return self._sums.shape

    @property
    def sums(self) -> csr_array:
        """S, float64 [tokens, latents]."""
        return self._sums.value

    def update(self, tokens: Tensor, values: Tensor, indices: Tensor) -> None:
        """Add rows: their token ids [rows] and top-k latents [rows, k].

        Raises as `sparse_rows`, and `ValueError` for a token outside the vocabulary.
        """
        latents = sparse_rows(values, indices, self.shape[1], name="latents")
        ids = tokens.detach().cpu().numpy().astype(np.int64)
        if ids.shape != (latents.shape[0],):
            raise ValueError(f"tokens are {list(ids.shape)}: wanted one per row, {len(values)}")
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self.rows):
            raise ValueError(
                f"tokens run from {ids.min()} to {ids.max()}: wanted 0 to {len(self.rows) - 1}"
            )
        places = (ids[rows_of_entries(latents)], latents.indices)
        self._sums.add(csr_array(coo_array((latents.data, places), shape=self.shape)))
        self.rows += np.bincount(ids, minlength=len(self.rows))
        self.num_rows += len(ids)
        self._add(column_sums(latents))

    def merge(self, other: TokenSums) -> None:
        """Add the rows of another accumulator of as many tokens and latents."""
        if other.shape != self.shape:
            raise ValueError(f"cannot merge {other.shape} tokens and latents into {self.shape}")
        self._sums.add(other.sums)
        self.rows += other.rows
        self.num_rows += other.num_rows
        self._add(other.side)

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values: 16 bytes per entry."""
        return {
            "rows": pack(self.rows),
            "sums": pack_sparse(self.sums),
            "side": [pack(part) for part in self.side],
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the accumulator that `to_dict` described."""
        sums = unpack_sparse(state["sums"])
        made = cls(*sums.shape)
        made._sums.put(sums)
        made.rows = unpack(state["rows"])
        made.num_rows = int(made.rows.sum())
        made.side = Side(*(unpack(part) for part in state["side"]))
        return made

    def _add(self, other: tuple[Any, ...]) -> None:
        self.side = Side(*(own + new for own, new in zip(self.side, other, strict=True)))
