"""Rows that several workers make are the graph that one makes; what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bathyscope.attribution.graphs.build import GraphSettings, Prepared, assembled, prepared
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.pieces import joined
from bathyscope.attribution.graphs.prune import prune
from bathyscope.errors import GraphError
from decoders import decoder
from row_cases import TOKENS, transcoders


def made(**settings: object) -> Prepared:
    given = GraphSettings(**settings)  # type: ignore[arg-type]
    return prepared(decoder("llama"), transcoders("transcoder"), TOKENS, settings=given)


@pytest.mark.parametrize("parts", [1, 2, 3, 200])
@pytest.mark.parametrize("row_share", [None, 0.9])
def test_pieces_are_the_whole(parts: int, row_share: float | None) -> None:
    one = made(row_share=row_share)
    whole = assembled(one, [one.piece(one.targets)])
    pieces = [one.piece(one.share(part, parts)) for part in range(parts)]
    found = assembled(one, pieces)
    assert torch.allclose(found.biases, whole.biases, atol=1e-6)
    np.testing.assert_array_equal(found.graph.indptr, whole.graph.indptr)
    np.testing.assert_array_equal(found.graph.indices, whole.graph.indices)
    np.testing.assert_allclose(found.graph.values, whole.graph.values, rtol=1e-4, atol=1e-6)
    if row_share is not None:
        a, b = found.graph.dropped, whole.graph.dropped
        assert a is not None
        assert b is not None
        for name in ("row_sums", "mass", "counts", "largest", "last_latent", "column_shares",
                     "propensity"):  # fmt: skip
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-6)


def test_edges_may_lie_in_files_that_go_with_the_graph(tmp_path: Path) -> None:
    """More than the memory allows, and no file is left that anybody could see."""
    whole = assembled(made(), [made().piece(made().targets)])
    one = made(spool=tmp_path, memory_bytes=45_000)
    found = assembled(one, [one.piece(one.share(part, 2)) for part in range(2)])
    assert isinstance(found.graph.values, np.memmap)
    np.testing.assert_array_equal(found.graph.indices, whole.graph.indices)
    np.testing.assert_allclose(found.graph.values, whole.graph.values, rtol=1e-4, atol=1e-6)
    order = order_of(found.graph)
    assert prune(found.graph, order=order).nodes.tolist() == prune(whole.graph).nodes.tolist()
    assert list(tmp_path.iterdir()) == []


def test_latents_that_are_known_are_not_chosen_again() -> None:
    first = made(most_latents=20)
    again = prepared(
        decoder("llama"), transcoders("transcoder"), TOKENS,
        settings=GraphSettings(most_latents=20), chosen=first.chosen,
    )  # fmt: skip
    assert torch.equal(again.nodes.latents.latent, first.nodes.latents.latent)
    assert again.num_active == first.num_active > 20


def test_a_row_that_is_missing_or_there_twice_is_refused() -> None:
    one = made()
    half = one.piece(one.share(0, 2))
    with pytest.raises(GraphError, match=r"The pieces have \d+ rows, of \d+ targets"):
        joined([half], one.nodes)
    with pytest.raises(GraphError, match="wanted each once"):
        joined([half, half], one.nodes)
