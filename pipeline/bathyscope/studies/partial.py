"""Partial matching: do latents of two models agree beyond the current token?

From each latent the mean over the rows of the row's own token is taken, on both sides; what is
left is correlated (the correlation within groups, pooled). With S sums and n_t rows per token,

    W_ab = Σ a b - Σ_t S_a[t] S_b[t] / n_t,     r = W_ab / √(W_aa W_bb)

which follows from sums. The means are those of the same rows, not of training rows: so a token that
occurs once says nothing, and no error of a fitted mean is left in the residuals.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, diags_array

from bathyscope.studies.latent_pairs import LatentPairs, Side
from bathyscope.studies.matching import Candidates, best_pairs
from bathyscope.studies.sparse_rows import (
    Floats,
    Integers,
    column_dots,
    entries_at,
    rows_of_entries,
)
from bathyscope.studies.token_sums import TokenSums


def partial_correlations(
    pairs: LatentPairs,
    tokens_a: TokenSums,
    tokens_b: TokenSums,
    in_a: Integers,
    in_b: Integers,
) -> Floats:
    """Return r of what the token leaves, for pairs of latents [pairs].

    NaN where one of the two is a function of the token. All three sums are of the same rows;
    raises `ValueError` where they cannot be.
    """
    _require_same_rows(pairs, tokens_a, tokens_b)
    a, b = _within(tokens_a), _within(tokens_b)
    return _correlations(pairs, (tokens_a, a), (tokens_b, b), in_a, in_b)


def partial_candidates(
    pairs: LatentPairs,
    tokens_a: TokenSums,
    tokens_b: TokenSums,
    *,
    among: Candidates | None = None,
    min_firings: int = 10,
    per_latent: int | None = 16,
) -> Candidates:
    """Return candidates for a match of what the token leaves.

    All pairs that are active together, or the pairs of `among` only: for 10^6 latents take the
    candidates of the plain match; the others then count as dropped. Latents that are functions of
    the token are left out. Raises like `partial_correlations`.
    """
    _require_same_rows(pairs, tokens_a, tokens_b)
    a, b = _within(tokens_a), _within(tokens_b)
    products = pairs.products
    if among is None:
        in_a, in_b = rows_of_entries(products), products.indices.astype(np.int64)
    else:
        in_a, in_b = among.in_a, among.in_b
    return best_pairs(
        a,
        b,
        (in_a, in_b, _correlations(pairs, (tokens_a, a), (tokens_b, b), in_a, in_b)),
        num_rows=pairs.num_rows,
        min_firings=min_firings,
        per_latent=per_latent,
        num_dropped=pairs.num_pruned + max(0, products.nnz - len(in_a)),
    )


def _correlations(
    pairs: LatentPairs,
    a: tuple[TokenSums, Side],
    b: tuple[TokenSums, Side],
    in_a: Integers,
    in_b: Integers,
) -> Floats:
    by_token = column_dots(_over_root(a[0]), _over_root(b[0]), in_a, in_b)
    within = entries_at(pairs.products, in_a, in_b) - by_token
    n = pairs.num_rows
    size = np.sqrt(a[1].scatter(n)[in_a] * b[1].scatter(n)[in_b])
    return np.divide(within, size, out=np.full(len(within), np.nan), where=size > 0)


def _within(tokens: TokenSums) -> Side:
    """Sums of the residuals: Σ is 0 and Σ² is W; rounding counts as 0."""
    squares = tokens.side.squares
    within = squares - np.asarray(_over_root(tokens).power(2).sum(axis=0))
    within = np.where(within > 1e-12 * squares, within, 0.0)
    return Side(np.zeros_like(within), within, tokens.side.firings)


def _over_root(tokens: TokenSums) -> csr_array:
    """S[t] / √n_t, so that products of two sides are S S / n_t."""
    return csr_array(diags_array(1 / np.sqrt(np.maximum(tokens.rows, 1))) @ tokens.sums)


def _require_same_rows(pairs: LatentPairs, tokens_a: TokenSums, tokens_b: TokenSums) -> None:
    alike = (
        np.array_equal(tokens_a.rows, tokens_b.rows)
        and pairs.num_rows == tokens_a.num_rows
        and np.array_equal(pairs.a.firings, tokens_a.side.firings)
        and np.array_equal(pairs.b.firings, tokens_b.side.firings)
    )
    if not alike:
        raise ValueError(
            f"pairs of {pairs.num_rows} rows, tokens of {tokens_a.num_rows} and "
            f"{tokens_b.num_rows}: wanted sums of the same rows, with the same latents"
        )
