"""Rows that matter are taken in full: what was dropped is off the books, and pruning agrees."""

from __future__ import annotations

import numpy as np
import pytest

from bathyscope.attribution.graphs.bounds import influence_bounds
from bathyscope.attribution.graphs.influence import influence_of
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.prune import prune
from bathyscope.attribution.graphs.refine import rows_in_doubt, with_full_rows
from bathyscope.errors import GraphError
from dense_graphs import random_dag, truncated


@pytest.mark.parametrize("seed", range(8))
def test_all_rows_in_full_are_the_exact_graph(seed: int) -> None:
    dense = random_dag(seed, latents=60)
    whole, cut = dense.graph(), truncated(dense, 0.9)
    targets = np.flatnonzero(np.diff(whole.indptr))
    found = with_full_rows(cut, whole, targets)
    np.testing.assert_array_equal(found.indptr, whole.indptr)
    np.testing.assert_array_equal(found.indices, whole.indices[:])
    np.testing.assert_array_equal(found.values, whole.values[:])
    assert found.dropped is not None
    assert found.dropped.mass.sum() == found.dropped.counts.sum() == 0
    assert found.dropped.column_shares.max() < 1e-12
    order = order_of(found)
    np.testing.assert_allclose(
        influence_of(found, order).nodes, influence_of(whole, order).nodes, atol=1e-12
    )


@pytest.mark.parametrize("seed", range(8))
def test_some_rows_in_full_leave_the_others_and_tighten_the_bounds(seed: int) -> None:
    dense = random_dag(seed, latents=60)
    whole, cut = dense.graph(), truncated(dense, 0.9)
    order = order_of(cut)
    targets = rows_in_doubt(cut, order, prune(cut, order=order))
    assert 0 < len(targets) <= np.count_nonzero(np.diff(whole.indptr))
    found = with_full_rows(cut, whole, targets)
    for t in range(found.num_nodes):
        source = whole if t in targets else cut
        row, wanted = (slice(*g.indptr[t : t + 2]) for g in (found, source))
        np.testing.assert_array_equal(found.values[row], source.values[wanted])
    before, after = influence_bounds(cut, order), influence_bounds(found, order_of(found))
    exact = influence_of(whole, order).nodes
    assert (after.low <= exact + 1e-12).all()
    assert (exact <= after.up + 1e-12).all()
    assert (after.up - after.low).sum() <= (before.up - before.low).sum()


def test_pruning_then_keeps_what_it_keeps_of_the_whole() -> None:
    """Edges of the tails of rows through which much influence flows."""
    lost, mended = 0, 0
    for seed in range(12):
        dense = random_dag(seed, latents=150, density=0.7)
        whole, cut = dense.graph(), truncated(dense, 0.97)
        order = order_of(whole)
        wanted = edges_of(whole, prune(whole, order=order))
        first = prune(cut, order=order_of(cut))
        lost += len(wanted ^ edges_of(cut, first))
        found = with_full_rows(cut, whole, rows_in_doubt(cut, order_of(cut), first))
        mended += len(wanted ^ edges_of(found, prune(found, order=order_of(found))))
    assert mended < 0.5 * lost


def edges_of(graph, pruned) -> set[tuple[int, int]]:  # type: ignore[no-untyped-def]
    positions = pruned.edges.positions()
    targets = np.searchsorted(graph.indptr, positions, side="right") - 1
    return set(zip(targets.tolist(), np.asarray(graph.indices[:])[positions].tolist(), strict=True))


def test_an_exact_graph_has_no_rows_in_doubt() -> None:
    graph = random_dag(0).graph()
    with pytest.raises(GraphError, match="exact and need no"):
        rows_in_doubt(graph, order_of(graph), prune(graph))
