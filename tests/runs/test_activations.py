"""Rows of a finished run: by item, at any place, around a place, and mixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bathyscope.errors import ConfigError, MissingArtifact
from bathyscope.runs.activations import Rows, mixed
from bathyscope.runs.run import Run
from bathyscope.stages.masks import kept
from bathyscope.stores.chunks import Part
from bathyscope.values import TRAIN

SETTINGS = {"streams": 4, "window_chunks": 4}


@pytest.fixture(scope="module")
def rows(finished: Run) -> Rows:
    return finished.activations["resid_post.1"]


@pytest.fixture(scope="module")
def everything(rows: Rows) -> torch.Tensor:
    """All rows, read unit by unit [items, P, d]."""
    parts = [rows.unit_rows(unit) for _, unit in rows.units()]
    return torch.cat(parts).view(-1, rows.corpus.sequence_length, rows.width)


def test_rows_anywhere_come_in_the_order_asked_for(rows: Rows, everything: torch.Tensor) -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(0, len(everything), 500)
    positions = rng.integers(0, rows.corpus.sequence_length, 500)

    found = rows.at(items, positions)

    assert found.dtype == torch.bfloat16
    assert torch.equal(found, everything[items, positions])


def test_the_same_place_may_be_asked_for_twice_and_none_at_all(
    rows: Rows, everything: torch.Tensor
) -> None:
    found = rows.at(np.array([3, 3, 0]), np.array([5, 5, 0]))

    assert torch.equal(found, everything[[3, 3, 0], [5, 5, 0]])
    assert rows.at(np.array([], dtype=int), np.array([], dtype=int)).shape == (0, rows.width)


def test_a_chunk_is_read_once_however_many_rows_are_wanted(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    reader = rows.readers[0]
    real = reader.read_tensor
    monkeypatch.setattr(
        reader, "read_tensor", lambda name, unit, **r: reads.append(r) or real(name, unit, **r)
    )

    rows.at(np.zeros(9, dtype=int), np.arange(9))

    assert reads == [{"start": 0, "stop": 9}]


@pytest.mark.parametrize(
    ("position", "places"), [(5, range(3, 7)), (0, range(2)), (31, (29, 30, 31))]
)
def test_a_neighbourhood_ends_with_its_item(
    rows: Rows, everything: torch.Tensor, position: int, places: range
) -> None:
    found = rows.neighbourhood(2, position, before=2, after=1)

    assert torch.equal(found, everything[2, list(places)])


def test_places_that_are_not_there_are_refused(rows: Rows, everything: torch.Tensor) -> None:
    with pytest.raises(IndexError, match="position 32 of items of 32"):
        rows.at(np.array([0]), np.array([32]))
    with pytest.raises(MissingArtifact, match=f"Item {len(everything)} of resid_post.1"):
        rows.at(np.array([len(everything)]), np.array([0]))
    with pytest.raises(MissingArtifact, match="Items"):
        rows.items(len(everything) - 1, len(everything) + 1)


def test_rows_are_counted_from_receipts_as_from_masks(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_masks = [
        Part(part.reader, part.names, split=TRAIN, keep=part.keep).sizes()
        for part in rows.parts(TRAIN, kept)
    ]
    monkeypatch.setattr(Rows, "masks", lambda *_: pytest.fail("masks were read"))

    by_receipts = [part.sizes() for part in rows.parts(TRAIN, kept)]

    assert [s.tolist() for s in by_receipts] == [s.tolist() for s in by_masks]
    assert sum(len(s) for s in by_receipts) > 10


def test_a_hook_point_beside_itself_is_there_twice(rows: Rows) -> None:
    batches = rows.batches(TRAIN, kept, batch_rows=64, beside=[rows], **SETTINGS)

    batch = batches.batch(0, 0, 3)

    assert batch.shape == (64, 2 * rows.width)
    assert torch.equal(batch[:, : rows.width], batch[:, rows.width :])


def test_runs_are_mixed_by_weight(rows: Rows, everything: torch.Tensor) -> None:
    batches = mixed([rows, rows], [3, 1], TRAIN, kept, batch_rows=256, **SETTINGS)

    assert [source.batch_rows for source in batches.sources] == [192, 64]
    origins, batch = batches.origins(0, 0, 1), batches.batch(0, 0, 1)
    assert torch.equal(batch, everything[origins[:, 2], origins[:, 3]])
    assert (origins[:, 3] > 0).all(), "the first position is filtered out"
    with pytest.raises(ConfigError, match="Weights"):
        mixed([rows, rows], [1, 0], TRAIN, kept, batch_rows=256, **SETTINGS)
