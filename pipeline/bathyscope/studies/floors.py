"""Floors under a match: what shuffled rows reach, and what the current token alone explains.

**Shuffled.** The rows of one side in another order: single rows, which leaves only how often
latents fire, or whole documents, which leaves what rows of one document share as well.

**Token identity.** Two models both know the current token, so latents that depend on it alone
match. The prediction of latent j at a row with token t is its mean over training rows of t,
m[t, j] = S[t, j] / n_t; over all training rows where t was not seen. On held-out rows, with their
sums S' and counts n',

    Σ pred_j = Σ_t n'_t m[t, j]
    Σ pred_j² = Σ_t n'_t m[t, j]²
    Σ a_j pred_i = Σ_t S'[t, j] m[t, i]

so that the correlation of a latent with its own prediction, and of any latent of the other model
with it, follow exactly from sums per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from bathyscope.studies.latent_pairs import Side, pearson
from bathyscope.studies.matching import Candidates, best_pairs, figures
from bathyscope.studies.sparse_rows import (
    Floats,
    Integers,
    among_largest,
    column_dots,
    rows_of_entries,
)
from bathyscope.studies.token_sums import TokenSums

# Products of token means with sums before the largest are picked: a few hundred MB.
_CHUNK_PRODUCTS = 1 << 24


class TokenFloor(NamedTuple):
    """How far the current token alone predicts each latent on held-out rows."""

    correlations: Floats
    """r of the latent with its token's training mean [latents]; 0 where that is the same for all
    rows, NaN for latents that were left out."""
    firings: Integers
    """Held-out rows in which each latent is active [latents]."""
    num_left_out: int
    """Latents that fire too seldom in held-out rows, or do not vary."""
    unseen_share: float
    """Held-out rows whose token has no training row."""

    def summary(self) -> dict[str, float]:
        """Mean, mean by firing and shares over the latents that were not left out."""
        some = ~np.isnan(self.correlations)
        return {
            "num_latents": float(some.sum()),
            "left_out": float(self.num_left_out),
            "unseen_share": self.unseen_share,
            **figures("token_floor", self.correlations[some], self.firings[some]),
        }


class _Predictor(NamedTuple):
    """Training means per token, with their sums over held-out rows."""

    means: csr_array
    """m [tokens, latents]; rows of unseen tokens are empty."""
    overall: Floats
    """The prediction where the token is unseen [latents]."""
    unseen: NDArray[np.bool_]
    side: Side
    """Σ pred and Σ pred² over held-out rows; firings are those of the training rows."""


def permute_rows(num_rows: int, *, seed: int) -> Tensor:
    """Return a random order of rows, int64 [rows]; raises `ValueError` for fewer than two."""
    if num_rows < 2:
        raise ValueError(f"{num_rows} rows: a shuffled floor needs at least 2")
    return torch.from_numpy(np.random.default_rng(seed).permutation(num_rows))


def permute_documents(documents: Tensor, *, seed: int) -> Tensor:
    """Return rows with whole documents in another order, int64 [rows].

    `documents` [rows] are ids; the rows of one document lie together and stay in order. No document
    keeps its place among the others; with unequal lengths some rows may still meet their own
    document (`kept_share`). Raises `ValueError` for fewer than two documents or scattered ones.
    """
    ids = documents.detach().cpu().numpy()
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])[: len(ids)])
    num = len(starts)
    if num < 2 or len(np.unique(ids[starts])) != num:
        raise ValueError(
            f"{num} runs of rows of {len(np.unique(ids))} documents: wanted at least 2 documents, "
            "each with its rows together"
        )
    # One cycle through a random order: every document takes the place of another.
    cycle = np.random.default_rng(seed).permutation(num)
    placed = np.empty(num, dtype=np.int64)
    placed[cycle] = np.roll(cycle, 1)
    pieces = np.split(np.arange(len(ids)), starts[1:])
    return torch.from_numpy(np.concatenate([pieces[number] for number in placed]))


def kept_share(documents: Tensor, order: Tensor) -> float:
    """Share of rows that meet a row of their own document in the shuffled order."""
    return float((documents == documents[order.to(documents.device)]).double().mean())


def token_floor(train: TokenSums, held_out: TokenSums, *, min_firings: int = 10) -> TokenFloor:
    """Return the correlation of each latent with its token's mean.

    Both sums are of one dictionary. Raises `ValueError` for other shapes or without rows.
    """
    predictor = _predictor(train, held_out)
    everywhere = np.arange(train.shape[1])
    products = held_out.sums.multiply(predictor.means).sum(axis=0)
    products = products + predictor.overall * held_out.sums[predictor.unseen].sum(axis=0)
    side, n = held_out.side, held_out.num_rows
    found = np.nan_to_num(pearson(predictor.side, side, n, products, everywhere, everywhere))
    usable = side.usable(n, min_firings)
    return TokenFloor(
        correlations=np.where(usable, found, np.nan),
        firings=side.firings,
        num_left_out=int((~usable).sum()),
        unseen_share=float(held_out.rows[predictor.unseen].sum()) / n,
    )


def token_correlations(
    train_a: TokenSums, held_out_b: TokenSums, in_a: Integers, in_b: Integers
) -> Floats:
    """Return r of token means of a's latents with b's latents on held-out rows [pairs].

    For the pairs of a match: how much of it stays when a knows the current token only. NaN where
    a prediction or a latent does not vary.
    """
    predictor = _predictor(train_a, held_out_b, same_latents=False)
    products = column_dots(predictor.means, held_out_b.sums, in_a, in_b)
    left = np.asarray(held_out_b.sums[predictor.unseen].sum(axis=0))
    products = products + predictor.overall[in_a] * left[in_b]
    return pearson(predictor.side, held_out_b.side, held_out_b.num_rows, products, in_a, in_b)


def token_candidates(
    train_a: TokenSums, held_out_b: TokenSums, *, min_firings: int = 10, per_latent: int = 16
) -> Candidates:
    """Return candidates for a new match of a's token means with b's latents on held-out rows.

    The `per_latent` largest of each latent of a. Firings of a are those of the training rows.
    """
    predictor = _predictor(train_a, held_out_b, same_latents=False)
    side, n = held_out_b.side, held_out_b.num_rows
    left = np.asarray(held_out_b.sums[predictor.unseen].sum(axis=0))
    parts, dropped = [], 0
    columns = predictor.means.tocsc()
    for some in _column_chunks(predictor.means, held_out_b.sums):
        products = csr_array(columns[:, some].T @ held_out_b.sums)
        in_a = some.start + rows_of_entries(products)
        in_b = products.indices.astype(np.int64)
        sums = products.data + predictor.overall[in_a] * left[in_b]
        found = pearson(predictor.side, side, n, sums, in_a, in_b)
        above = np.flatnonzero(found > 0)
        kept = above[among_largest(in_a[above], found[above], per_latent)]
        dropped += len(above) - len(kept)
        parts.append((in_a[kept], in_b[kept], found[kept]))
    in_a, in_b, found = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return best_pairs(
        predictor.side,
        side,
        (in_a, in_b, found),
        num_rows=n,
        min_firings=min_firings,
        per_latent=per_latent,
        num_dropped=dropped,
    )


def _predictor(train: TokenSums, held_out: TokenSums, *, same_latents: bool = True) -> _Predictor:
    shapes = train.shape, held_out.shape
    if shapes[0][0] != shapes[1][0] or (same_latents and shapes[0] != shapes[1]):
        raise ValueError(
            f"sums per token are {shapes[0]} and {shapes[1]}: wanted one vocabulary"
            + (" and one dictionary" if same_latents else "")
        )
    if train.num_rows == 0 or held_out.num_rows == 0:
        raise ValueError(
            f"{train.num_rows} training and {held_out.num_rows} held-out rows: wanted both"
        )
    seen = train.rows > 0
    means = csr_array(diags_array(1 / np.maximum(train.rows, 1)) @ train.sums)
    overall = train.side.sums / train.num_rows
    unseen_rows = int(held_out.rows[~seen].sum())
    rows = held_out.rows.astype(np.float64)
    sums = means.T @ rows + unseen_rows * overall
    squares = means.power(2).T @ rows + unseen_rows * overall**2
    return _Predictor(means, overall, ~seen, Side(sums, squares, train.side.firings))


def _column_chunks(means: csr_array, sums: csr_array) -> Iterator[slice]:
    """Latents whose products with all sums together are about one chunk."""
    entries = np.diff(sums.indptr).astype(np.float64)
    work = np.bincount(
        means.indices, weights=entries[rows_of_entries(means)], minlength=means.shape[1]
    )
    chunk = np.cumsum(work) // _CHUNK_PRODUCTS
    cuts = np.flatnonzero(np.diff(chunk)) + 1
    edges = [0, *cuts.tolist(), means.shape[1]]
    for start, stop in pairwise(edges):
        yield slice(start, stop)
