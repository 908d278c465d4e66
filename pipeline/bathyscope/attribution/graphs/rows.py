"""Collects rows of a graph while gradients are made: exact, or truncated with what was left out.

Rows come in any order of targets and from any device; only what is kept leaves the device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.attribution.graphs.graph import Dropped, Graph, Ints
from bathyscope.attribution.graphs.spread import propensities
from bathyscope.attribution.graphs.truncate import SparseRows, covering
from bathyscope.errors import GraphError, NonFiniteError

SHARE = 0.999
"""Of each row's mass that a truncated row keeps."""


class _Piece(NamedTuple):
    """Kept entries of the rows that came together."""

    targets: Ints
    lengths: Ints
    indices: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]


class RowWriter:
    """Makes a `Graph` of blocks of rows A[targets, sources].

    `share` None keeps every entry that is not 0. Else each row keeps its largest |entries| that
    together have that share of its mass (`truncate.covering`), and the graph also has what was
    dropped of each row, so that influence, scores and pruning come with bounds.
    """

    def __init__(
        self,
        num_latents: int,
        num_errors: int,
        num_tokens: int,
        num_logits: int,
        *,
        share: float | None = None,
    ) -> None:
        if share is not None and not 0 < share <= 1:
            raise GraphError(f"share is {share}: wanted more than 0 and at most 1, or None.")
        self._counts = (num_latents, num_errors, num_tokens, num_logits)
        self._share = share
        self._num_sources = num_latents + num_errors + num_tokens
        self._num_nodes = self._num_sources + num_logits
        self._lengths = np.full(self._num_nodes, -1)
        self._pieces: list[_Piece] = []
        self._dropped = None if share is None else _nothing_dropped(self._num_nodes)
        self._columns = np.zeros(self._num_nodes)

    @property
    def num_edges(self) -> int:
        """Entries kept so far."""
        return sum(len(piece.indices) for piece in self._pieces)

    @torch.no_grad()
    def add(self, targets: Tensor, block: Tensor) -> None:
        """Add rows: targets int64 [b] (latents or logits), block float32 [b, sources].

        Columns are latents, errors, tokens. Raises `NonFiniteError` that names target and source,
        and `GraphError` for other shapes, for a target that is none or that has come before.
        """
        wanted = (len(targets), self._num_sources)
        if block.shape != wanted or block.dtype != torch.float32:
            raise GraphError(
                f"A block of {tuple(block.shape)}, {block.dtype}, for {len(targets)} targets: "
                f"wanted float32 {wanted}, a column for each latent, error and token."
            )
        rows, columns = (block != 0).nonzero(as_tuple=True)
        self._add(targets, SparseRows(rows, columns, block[rows, columns], len(targets)))

    @torch.no_grad()
    def add_sparse(self, targets: Tensor, lengths: Tensor, columns: Tensor, values: Tensor) -> None:
        """Add rows that are sparse already: lengths int64 [b], columns and values [Σ lengths].

        Columns ascend within a row; zeros are left out. Raises like `add`.
        """
        if len(lengths) != len(targets) or len(columns) != len(values):
            raise GraphError(
                f"{len(lengths)} lengths for {len(targets)} targets, {len(columns)} columns for "
                f"{len(values)} values: wanted equal numbers."
            )
        rows = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        entries = SparseRows(rows, columns.long(), values.float(), len(lengths))
        self._add(targets, entries.chosen(values != 0))

    def finish(self, logit_probabilities: npt.NDArray[Any], *, partial: bool = False) -> Graph:
        """The graph of all rows; the writer is empty afterwards.

        Needs the memory of the edges once: each block goes as soon as it is in its place. Raises
        `GraphError` when a target's row has not come, unless `partial` leaves it empty.
        """
        self._lengths[self._counts[0] : self._num_sources] = 0
        missing = np.flatnonzero(self._lengths < 0)
        if len(missing) and not partial:
            raise GraphError(
                f"{len(missing)} targets have no row yet, the first is node {missing[0]}. Add "
                "them, or finish with partial=True, which leaves their rows empty."
            )
        indptr = np.zeros(self._num_nodes + 1, dtype=np.int64)
        np.cumsum(np.maximum(self._lengths, 0), out=indptr[1:])
        indices = np.empty(indptr[-1], dtype=np.int32)
        values = np.empty(indptr[-1], dtype=np.float32)
        self._pieces.reverse()
        while self._pieces:
            piece = self._pieces.pop()
            _place(piece.indices, piece, indptr, indices)
            _place(piece.values, piece, indptr, values)
        graph = Graph(indptr, indices, values, *self._counts, logit_probabilities, self._dropped)
        if self._dropped is not None:
            self._dropped.propensity[:] = propensities(graph, self._dropped, self._columns)
        return graph

    def _add(self, targets: Tensor, entries: SparseRows) -> None:
        nodes = targets.cpu().numpy().astype(np.int64)
        self._check(nodes, entries)
        kept = entries
        if self._share is not None:
            keep = covering(entries, self._share)
            kept = entries.chosen(keep)
            self._note(nodes, entries.sums(), entries.chosen(~keep))
        lengths = torch.bincount(kept.rows, minlength=len(nodes)).cpu().numpy()
        self._lengths[nodes] = lengths
        columns = kept.columns.to(torch.int32).cpu().numpy()
        self._pieces.append(_Piece(nodes, lengths, columns, kept.values.cpu().numpy()))

    def _note(self, nodes: Ints, sums: Tensor, gone: SparseRows) -> None:
        """Keep what is known of dropped entries."""
        assert self._dropped is not None
        num_latents, num_errors = self._counts[:2]
        kind = (gone.columns >= num_latents).long() + (gone.columns >= num_latents + num_errors)
        by_kind = torch.zeros(gone.num_rows * 3, dtype=torch.float64, device=sums.device)
        size = gone.values.abs()
        by_kind.index_add_(0, gone.rows * 3 + kind, size.double())
        largest = size.new_zeros(gone.num_rows).scatter_reduce(0, gone.rows, size, "amax")
        latent = torch.where(kind == 0, gone.columns, -1)
        last = latent.new_full((gone.num_rows,), -1).scatter_reduce(0, gone.rows, latent, "amax")
        columns = size.new_zeros(self._num_sources, dtype=torch.float64)
        columns.index_add_(0, gone.columns, size.double() / sums[gone.rows])
        counts = torch.bincount(gone.rows, minlength=gone.num_rows)
        self._columns[: self._num_sources] += columns.cpu().numpy()
        self._dropped.row_sums[nodes] = sums.cpu().numpy()
        self._dropped.mass[nodes] = by_kind.view(-1, 3).cpu().numpy()
        self._dropped.counts[nodes] = counts.cpu().numpy()
        self._dropped.largest[nodes] = largest.cpu().numpy()
        self._dropped.last_latent[nodes] = last.cpu().numpy()

    def _check(self, nodes: Ints, entries: SparseRows) -> None:
        num_latents, last = self._counts[0], self._num_nodes
        is_target = (nodes >= 0) & (nodes < last)
        is_target &= (nodes < num_latents) | (nodes >= self._num_sources)
        if not is_target.all():
            raise GraphError(
                f"Node {nodes[~is_target][0]} cannot be a target: latents are 0 to "
                f"{num_latents - 1}, logits {self._num_sources} to {last - 1}."
            )
        seen, times = np.unique(nodes, return_counts=True)
        again = seen[(times > 1) | (self._lengths[seen] >= 0)]
        if len(again):
            raise GraphError(f"The row of node {again[0]} came twice: wanted each target once.")
        finite = torch.isfinite(entries.values)
        if not bool(finite.all()):
            place = int(torch.nonzero(~finite)[0])
            row, source = int(nodes[entries.rows[place]]), int(entries.columns[place])
            raise NonFiniteError(
                f"The edge to node {row} from node {source} is {float(entries.values[place])}. "
                "Look for an overflow in the model's forward or gradients; float32 helps."
            )


def _place(entries: npt.NDArray[Any], piece: _Piece, indptr: Ints, into: npt.NDArray[Any]) -> None:
    starts = indptr[piece.targets]
    if not len(starts):
        return
    if (np.diff(piece.targets) == 1).all():
        into[starts[0] : starts[0] + len(entries)] = entries
        return
    first = 0
    for start, length in zip(starts.tolist(), piece.lengths.tolist(), strict=True):
        into[start : start + length] = entries[first : first + length]
        first += length


def _nothing_dropped(n: int) -> Dropped:
    return Dropped(
        np.zeros(n),
        np.zeros((n, 3)),
        np.zeros(n, dtype=np.int64),
        np.zeros(n, dtype=np.float32),
        np.full(n, -1),
        np.zeros(n),
    )
