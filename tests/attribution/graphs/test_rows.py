from itertools import pairwise

import numpy as np
import pytest
import torch

from bathyscope.attribution.graphs.rows import RowWriter
from bathyscope.attribution.graphs.truncate import SparseRows, covering
from bathyscope.errors import GraphError, NonFiniteError
from dense_graphs import random_dag


def written(dense, share=None, *, seed=0, rows_at_once=7):
    """The graph of rows that come in random order."""
    writer = RowWriter(*dense.counts, share=share)
    latents, n = dense.num_latents, len(dense.matrix)
    sources = n - dense.num_logits
    targets = np.concatenate([np.arange(latents), np.arange(sources, n)])
    targets = np.random.default_rng(seed).permutation(targets)
    for some in np.split(targets, range(rows_at_once, len(targets), rows_at_once)):
        block = torch.from_numpy(dense.matrix[some, :sources])
        writer.add(torch.from_numpy(some), block)
    return writer.finish(dense.p)


def covering_by_sorting(row, share):
    size = np.abs(row.astype(np.float64))
    falling = np.sort(size[size > 0])[::-1]
    reached = np.cumsum(falling) >= share * falling.sum()
    return size >= falling[np.argmax(reached)] if len(falling) else size > 0


def test_rows_in_any_order_make_the_same_graph():
    dense = random_dag(0)
    wanted = dense.graph()
    for seed in range(3):
        found = written(dense, seed=seed, rows_at_once=5 + seed)
        for name in ("indptr", "indices", "values"):
            assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
            assert getattr(found, name).dtype == getattr(wanted, name).dtype
        assert found.dropped is None


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_truncated_rows_are_their_largest_entries(seed, share):
    dense = random_dag(seed, density=0.8)
    graph = written(dense, share, seed=seed)
    kept = np.zeros(dense.matrix.shape, dtype=bool)
    rows = np.repeat(np.arange(graph.num_nodes), np.diff(graph.indptr))
    kept[rows, graph.indices] = True

    wanted = np.stack([covering_by_sorting(row, share) for row in dense.matrix])
    assert np.array_equal(kept, wanted & (dense.matrix != 0))
    assert np.array_equal(graph.values, dense.matrix[kept])
    size = np.abs(dense.matrix.astype(np.float64))
    gone = np.where(kept, 0, size)
    ends = [0, dense.num_latents, dense.num_latents + dense.num_errors, len(size) - 3]
    of_kinds = [gone[:, a:b].sum(1) for a, b in pairwise(ends)]
    assert graph.dropped.row_sums == pytest.approx(size.sum(1))
    assert graph.dropped.mass == pytest.approx(np.stack(of_kinds, 1))
    assert graph.dropped.counts.tolist() == (gone > 0).sum(1).tolist()
    assert graph.dropped.largest.tolist() == gone.max(1).tolist()
    shares = gone / np.maximum(size.sum(1, keepdims=True), 1e-300)
    found = graph.dropped.column_shares
    assert found.sum(1) == pytest.approx(shares.sum(0))
    assert found[:, -1] == pytest.approx(shares[-3:].sum(0))
    # 40 latents in 15 ranges: the first holds three.
    assert found[:, 0] == pytest.approx(shares[:3].sum(0))
    latents = gone[:, : dense.num_latents] > 0
    last = np.where(latents.any(1), latents.shape[1] - 1 - np.argmax(latents[:, ::-1], 1), -1)
    assert graph.dropped.last_latent.tolist() == last.tolist()


def covered(rows, share):
    lengths = torch.tensor([len(row) for row in rows])
    numbers = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    columns = torch.cat([torch.arange(len(row)) for row in rows])
    values = torch.tensor([v for row in rows for v in row])
    found = covering(SparseRows(numbers, columns, values, len(rows)), share)
    return [part.tolist() for part in found.split(lengths.tolist())]


def test_covering_by_hand():
    rows = [[-4.0, 1.0, 3.0, 2.0], [], [5.0], [1.0, 1.0, 1.0, 1.0], [1e-30, 8.0, 2.0]]
    assert covered(rows, 0.7) == [
        [True, False, True, False],  # 7 of 10
        [],
        [True],
        [True] * 4,  # all are as large as the third
        [False, True, False],
    ]
    assert covered(rows, 1.0)[0] == [True] * 4
    assert covered([[], []], 0.5) == [[], []]


def test_rows_that_are_sparse_already():
    dense = random_dag(1)
    for share in (None, 0.9):
        wanted, writer = written(dense, share), RowWriter(*dense.counts, share=share)
        graph = dense.graph()
        for some in (np.arange(40, 0, -1) - 1, np.arange(64, 67)):
            parts = [slice(graph.indptr[t], graph.indptr[t + 1]) for t in some]
            columns, values = (
                torch.from_numpy(np.concatenate([a[p] for p in parts]))
                for a in (graph.indices, graph.values)
            )
            lengths = torch.from_numpy(np.diff(graph.indptr)[some])
            writer.add_sparse(torch.from_numpy(some.copy()), lengths, columns, values)
        found = writer.finish(dense.p)
        assert np.array_equal(found.values, wanted.values)
        assert np.array_equal(found.indices, wanted.indices)


def writer():
    return RowWriter(2, 1, 1, 1)


def rows(*rows):
    return torch.tensor(rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_names_row_and_node(value):
    with pytest.raises(NonFiniteError, match=r"edge to node 4 from node 1 is (nan|inf)"):
        writer().add(torch.tensor([0, 4]), rows([0, 0.0, 0, 1], [1, value, 0, 0]))


def test_targets_that_are_none_or_come_twice():
    with pytest.raises(GraphError, match="Node 2 cannot be a target: latents are 0 to 1, logits 4"):
        writer().add(torch.tensor([2]), rows([0.0] * 4))
    with pytest.raises(GraphError, match="Node -1 cannot"):
        writer().add(torch.tensor([-1]), rows([0.0] * 4))
    with pytest.raises(GraphError, match="row of node 1 came twice"):
        writer().add(torch.tensor([0, 1, 1]), rows(*[[0.0] * 4] * 3))
    half = writer()
    half.add(torch.tensor([0]), rows([0.0] * 4))
    with pytest.raises(GraphError, match="row of node 0 came twice"):
        half.add(torch.tensor([0]), rows([0.0] * 4))
    with pytest.raises(GraphError, match="2 targets have no row yet, the first is node 1"):
        half.finish(np.array([1.0]))


def test_a_partial_graph_has_empty_rows():
    half = writer()
    half.add(torch.tensor([4]), rows([1.0, 0, 0, 2]))
    graph = half.finish(np.array([1.0]), partial=True)
    assert graph.indptr.tolist() == [0, 0, 0, 0, 0, 2]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (torch.zeros(1, 5), r"block of \(1, 5\), torch.float32, for 1 targets.*\(1, 4\)"),
        (torch.zeros(2, 4), r"block of \(2, 4\)"),
        (torch.zeros(1, 4, dtype=torch.float64), "torch.float64"),
    ],
)
def test_blocks_of_another_shape(block, said):
    with pytest.raises(GraphError, match=said):
        writer().add(torch.tensor([0]), block)


def test_shares_and_lengths_that_do_not_fit():
    with pytest.raises(GraphError, match="share is 0"):
        RowWriter(2, 1, 1, 1, share=0)
    zeros = torch.zeros(3)
    with pytest.raises(GraphError, match="2 lengths for 1 targets, 3 columns for 3 values"):
        writer().add_sparse(torch.tensor([0]), torch.tensor([1, 2]), zeros.long(), zeros)


def test_adding_nothing_changes_nothing():
    some = writer()
    some.add(torch.empty(0, dtype=torch.int64), torch.empty(0, 4))
    for target in (0, 1, 4):
        some.add(torch.tensor([target]), torch.zeros(1, 4))
    assert some.finish(np.array([1.0])).num_edges == 0
