"""The dimensions that activations use, streamed: moments at every point, a sample at the hook.

At the hook point moments are kept by parts of the documents too, for the jackknife of spectra, and
a fixed number of rows for TwoNN; elsewhere there is one covariance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from bathyscope.metrics.controls import SecondMoments
from bathyscope.metrics.splice import DocumentLosses
from bathyscope.models.capture import capture_batches, observed
from bathyscope.models.hook_points import HookPoint
from bathyscope.models.load import LoadedModel
from bathyscope.models.row_rules import rows_of
from bathyscope.stages.batches import ImageBatches
from bathyscope.stages.model import describe_model, input_keyword
from bathyscope.stages.studies.member_runs import rows_are_tokens
from bathyscope.stages.studies.opened import ITEMS, Batch, OpenedMember, logits_of, losses_of
from bathyscope.studies.intrinsic_dimension import two_nn
from bathyscope.studies.spectrum import of_eigenvalues, spectrum, standard_errors
from bathyscope.values import HELD_OUT, Json, Unit

PARTS = 20
"""Of the documents, of which the jackknife leaves out one at a time."""
SAMPLE_ROWS = 2048
"""Rows of TwoNN: its estimate depends on how many there are, so all models have the same."""
_FEWEST_PARTS = 3


class Spaces:
    """What is kept of the rows that stream by."""

    def __init__(self, hook: str, documents: Tensor, seed: int) -> None:
        """`documents` [rows] is the document of every row that will come at the hook point."""
        self.hook = hook
        self.moments: dict[str, SecondMoments] = {}
        self.parts: dict[int, SecondMoments] = {}
        self._part_of = _parts(documents)
        draw = torch.Generator().manual_seed(seed)
        self._chosen = torch.zeros(len(documents), dtype=torch.bool)
        self._chosen[torch.randperm(len(documents), generator=draw)[:SAMPLE_ROWS]] = True
        self._sample: list[Tensor] = []
        self._at = 0

    def see(self, rows_by_point: Mapping[str, Tensor]) -> None:
        """Add rows [n, d] of every point, in order. Raises `NonFiniteError` for NaN."""
        for name, rows in rows_by_point.items():
            if name != self.hook:
                self.moments.setdefault(name, SecondMoments(rows.shape[1])).update(rows)
                continue
            span = slice(self._at, self._at + len(rows))
            part = self._part_of[span]
            for number in part.unique().tolist():
                moments = self.parts.setdefault(number, SecondMoments(rows.shape[1]))
                moments.update(rows[(part == number).to(rows.device)])
            self._sample.append(rows[self._chosen[span].to(rows.device)].float().cpu())
            self._at = span.stop

    @property
    def sample(self) -> Tensor:
        """Rows at the hook point, drawn evenly [n, d]."""
        return torch.cat(self._sample)

    def at(self, name: str) -> SecondMoments:
        """The moments at a point."""
        if name != self.hook:
            return self.moments[name]
        whole = SecondMoments(next(iter(self.parts.values())).width)
        for part in self.parts.values():
            whole.merge(part)
        return whole

    def figures(self, name: str) -> Json:
        """Of any point: the spectrum, and that of shuffled columns, which keep their variances."""
        moments = self.at(name)
        row = spectrum(moments).to_dict()
        apart = of_eigenvalues(moments.scatter.diagonal(), num_rows=moments.num_rows)
        row["shuffled_participation_ratio_share"] = apart.participation_ratio / moments.width
        return row | {"d": moments.width}

    def figures_at_hook(self, seed: int) -> Json:
        """The same with standard errors over documents, TwoNN, and TwoNN of Gaussian rows."""
        row = self.figures(self.hook)
        row["document_parts"] = len(self.parts)
        if len(self.parts) >= _FEWEST_PARTS:
            errors = standard_errors(list(self.parts.values()))
            row |= {f"{name}_error": error for name, error in errors.items()}
        own = two_nn(self.sample, sample_rows=SAMPLE_ROWS, seed=seed)
        same = two_nn(_gaussian(self.at(self.hook), own.num_rows, seed), sample_rows=SAMPLE_ROWS)
        return row | {
            "two_nn": own.maximum_likelihood,
            "two_nn_low": own.low,
            "two_nn_high": own.high,
            "two_nn_rows": own.num_rows,
            "two_nn_duplicates": own.num_duplicates,
            "two_nn_gaussian": same.maximum_likelihood,
        }


def observe(
    opened: OpenedMember, loaded: LoadedModel, points: list[HookPoint], seed: int
) -> tuple[Spaces, DocumentLosses | None]:
    """Show held-out items to some weights of a member: its spaces and, for text, its losses.

    The hook point is the first of the points.
    """
    if rows_are_tokens(opened.config):
        return _observe_text(opened, loaded, points, seed)
    return _observe_images(opened, loaded, points, seed), None


def _observe_text(
    opened: OpenedMember, loaded: LoadedModel, points: list[HookPoint], seed: int
) -> tuple[Spaces, DocumentLosses]:
    batches = list(opened.batches(HELD_OUT, opened.config.study.splice_tokens))
    documents = torch.cat([batch.documents[batch.keep] for batch in batches])
    spaces, held = Spaces(points[0].name, documents, seed), dict[str, Tensor]()

    def watched() -> Iterator[Batch]:
        for batch in batches:
            yield batch
            # The forward is over when the next batch is asked for.
            spaces.see({name: x[batch.keep.to(x.device)] for name, x in held.items()})

    with ExitStack() as stack:
        for point in points:
            keep = partial(held.__setitem__, point.name)
            stack.enter_context(observed(loaded.model, point, keep))
        losses = losses_of(watched(), logits_of(loaded.model, loaded.input_device))
    return spaces, losses


def _observe_images(
    opened: OpenedMember, loaded: LoadedModel, points: list[HookPoint], seed: int
) -> Spaces:
    config, corpus = opened.config, opened.corpus
    facts = describe_model(config)
    per_item = facts.shape.positions[0] or 1
    unit = held_out_images(opened, per_item)
    documents = torch.from_numpy(corpus.documents(unit.start, unit.stop).astype("int64"))
    documents = documents.reshape(unit.num_items, -1)[:, :1].expand(-1, per_item).flatten()
    spaces, left = Spaces(points[0].name, documents, seed), unit.num_items
    pictures = ImageBatches(
        corpus,
        ITEMS,
        loaded.input_device,
        dtype=loaded.dtype,
        mean=config.model.image_mean,
        deviation=config.model.image_std,
    )
    keyword, last = input_keyword(config, facts), config.hooks.channels_last
    for seen in capture_batches(loaded.model, points, pictures.of(unit), keyword=keyword):
        spaces.see(
            {
                name: rows_of(name, x, ITEMS, channels_last=name in last)[:left].flatten(0, 1)
                for name, x in seen.items()
            }
        )
        left -= ITEMS
    return spaces


def held_out_images(opened: OpenedMember, per_item: int) -> Unit:
    """Pictures with as many rows as there are of text, but no fewer than a batch."""
    there = opened.corpus.split_range(HELD_OUT)
    count = max(opened.config.study.splice_tokens // per_item, ITEMS)
    return Unit(0, there.start, min(there.start + count, there.stop), HELD_OUT)


def _parts(documents: Tensor) -> Tensor:
    """The part of each row [rows]: runs of whole documents with about as many rows each."""
    _, place, counts = documents.unique(return_inverse=True, return_counts=True)
    before = counts.cumsum(0) - counts
    return (before * PARTS // len(documents))[place]


def _gaussian(moments: SecondMoments, rows: int, seed: int) -> Tensor:
    """Rows of a Gaussian with the same covariance [rows, d]: what a spectrum alone gives TwoNN."""
    variances, axes = torch.linalg.eigh(moments.scatter / moments.num_rows)
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, moments.width, generator=draw, dtype=torch.float64)
    return (drawn * variances.clamp(min=0).sqrt()) @ axes.T
