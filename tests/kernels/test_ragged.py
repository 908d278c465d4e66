"""Ragged rows: slices, ways to make them, and the products against dense ones."""

from types import SimpleNamespace

import pytest
import torch

from bathyscope_kernels.ragged import Ragged, from_coordinates, row_of
from bathyscope_kernels.ragged_products import (
    by_latent,
    gather_sum,
    sampled_dot,
    scatter_sum,
    sum_by_latent,
)


def make(oracle: SimpleNamespace, rows: int, latents: int) -> Ragged:
    """About a third of all places; the second row is empty."""
    kept = oracle.normal(rows, latents, seed=0) > 0.4
    kept[1:2] = False
    places = kept.nonzero()
    values = oracle.eighths(places.shape[0], seed=1)
    return from_coordinates(values, *places.T, num_rows=rows, num_columns=latents)


def test_a_hand_worked_matrix() -> None:
    values, rows, columns = torch.tensor([1.0, 2, 3]), torch.tensor([2, 0, 2]), [3, 1, 0]
    ragged = from_coordinates(values, rows, torch.tensor(columns), num_rows=3, num_columns=4)
    assert ragged.values.tolist() == [2, 3, 1]
    assert ragged.indices.tolist() == [1, 0, 3]
    assert ragged.offsets.tolist() == [0, 1, 1, 3]
    assert ragged.num_rows == 3
    assert ragged.counts.tolist() == [1, 0, 2]
    assert row_of(ragged.offsets).tolist() == [0, 2, 2]
    assert ragged.to_dense(4).tolist() == [[0, 2, 0, 0], [0, 0, 0, 0], [3, 0, 0, 1]]
    assert [part.tolist() for part in ragged.row(2)] == [[3, 1], [0, 3]]
    assert [part.numel() for part in ragged.row(1)] == [0, 0]
    part = ragged.rows(1, 3)
    assert part.offsets.tolist() == [0, 0, 2]
    assert torch.equal(part.to_dense(4), ragged.to_dense(4)[1:])
    assert ragged.rows(1, 1).offsets.tolist() == [0]


@pytest.mark.parametrize("workspace_bytes", [256, 2**26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("rows", "latents", "d"), [(1, 1, 1), (65, 63, 5), (3, 1000, 65)])
def test_products_equal_dense_ones_bit_for_bit(
    oracle: SimpleNamespace,
    rows: int,
    latents: int,
    d: int,
    dtype: torch.dtype,
    workspace_bytes: int,
) -> None:
    ragged = make(oracle, rows, latents)
    indices, offsets = ragged.indices, ragged.offsets
    S = ragged.to_dense(latents).double()
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    values = ragged.values.to(accumulated)
    matrix, vectors = oracle.eighths(latents, d, seed=2), oracle.eighths(rows, d, seed=3)

    out = gather_sum(
        values, indices, offsets, matrix=matrix.to(dtype), workspace_bytes=workspace_bytes
    )
    assert out.dtype == accumulated
    assert torch.equal(out.double(), S @ matrix.double())

    expected = S.T @ vectors.double()
    for only_present in (False, True):
        lists = by_latent(indices, offsets, num_latents=latents, only_present=only_present)
        for out_dtype in (accumulated, torch.bfloat16):
            out = scatter_sum(
                values,
                lists,
                vectors=vectors.to(dtype),
                workspace_bytes=workspace_bytes,
                out_dtype=out_dtype,
            )
            wanted = expected if lists.latents is None else expected[lists.latents]
            assert torch.equal(out, wanted.to(out_dtype))
        sums = S.sum(0) if lists.latents is None else S.sum(0)[lists.latents]
        assert torch.equal(sum_by_latent(values, lists).double(), sums)

    dots = sampled_dot(
        vectors.to(accumulated),
        indices,
        offsets,
        matrix=matrix.to(dtype),
        workspace_bytes=workspace_bytes,
    )
    products = vectors.double() @ matrix.double().T
    assert torch.equal(dots.double(), products[row_of(offsets), indices.long()])


def test_a_list_of_each_latent_has_its_rows_ascending(oracle: SimpleNamespace) -> None:
    ragged = make(oracle, 65, 63)
    lists = by_latent(ragged.indices, ragged.offsets, num_latents=63)
    S = ragged.to_dense(63) != 0
    for latent in range(63):
        entries = slice(int(lists.offsets[latent]), int(lists.offsets[latent + 1]))
        rows, values = lists.rows[entries], ragged.values[lists.order[entries]]
        assert (rows.diff() > 0).all()
        assert torch.equal(rows[values != 0], S[:, latent].nonzero().squeeze(1))


def test_empty_matrices_multiply_to_zeros() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    ragged = from_coordinates(torch.zeros(0), nothing, nothing, num_rows=3, num_columns=4)
    lists = (ragged.indices, ragged.offsets)
    out = gather_sum(ragged.values, *lists, matrix=torch.ones(4, 2), workspace_bytes=256)
    assert torch.equal(out, torch.zeros(3, 2))
    assert sampled_dot(out, *lists, matrix=torch.ones(4, 2), workspace_bytes=256).shape == (0,)
    for only_present, count in ((False, 4), (True, 0)):
        turned = by_latent(*lists, num_latents=4, only_present=only_present)
        sums = scatter_sum(
            ragged.values, turned, vectors=out, workspace_bytes=256, out_dtype=torch.float32
        )
        assert torch.equal(sums, torch.zeros(count, 2))
        assert torch.equal(sum_by_latent(ragged.values, turned), torch.zeros(count))


def test_wrong_arguments_are_refused(oracle: SimpleNamespace) -> None:
    values, rows, columns = torch.ones(2), torch.tensor([0, 1]), torch.tensor([0, 3])
    with pytest.raises(ValueError, match=r"wanted three lists \[nnz\] of one length"):
        from_coordinates(values, rows[:1], columns, num_rows=2, num_columns=4)
    with pytest.raises(ValueError, match="columns from 0 to 3, wanted 0 to 2"):
        from_coordinates(values, rows, columns, num_rows=2, num_columns=3)
    with pytest.raises(ValueError, match="rows from 0 to 1, wanted 0 to 0"):
        from_coordinates(values, rows, columns, num_rows=1, num_columns=4)
    with pytest.raises(ValueError, match="got a place twice"):
        from_coordinates(values, rows * 0, columns * 0, num_rows=2, num_columns=4)
    ragged = make(oracle, 5, 6)
    with pytest.raises(ValueError, match="got row 5 of a Ragged, wanted 0 to 4"):
        ragged.row(5)
    with pytest.raises(ValueError, match="got rows 2 to 6 of a Ragged"):
        ragged.rows(2, 6)
