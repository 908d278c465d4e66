"""Collects rows of a graph while gradients are made: exact, or truncated with what was left out.

Rows come in any order of targets and from any device; only what is kept leaves the device.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.attribution.graphs.graph import Dropped, Graph, Ints, target_groups
from bathyscope.attribution.graphs.spread import propensities
from bathyscope.attribution.graphs.truncate import SparseRows, covering
from bathyscope.errors import GraphError, NonFiniteError

SHARE = 0.999
"""Of each row's mass that a truncated row keeps."""


GROUPS = 16
"""Of targets, for which column sums of dropped entries are kept apart."""
_SLAB = 2**24


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
    dropped of each row, so that influence, scores and pruning come with bounds. With a `spool`
    folder, on a local disk, the entries lie there in files that go when the graph does.
    """

    def __init__(
        self,
        num_latents: int,
        num_errors: int,
        num_tokens: int,
        num_logits: int,
        *,
        share: float | None = None,
        spool: Path | None = None,
    ) -> None:
        if share is not None and not 0 < share <= 1:
            raise GraphError(f"share is {share}: wanted more than 0 and at most 1, or None.")
        self._counts = (num_latents, num_errors, num_tokens, num_logits)
        self._share = share
        self._num_sources = num_latents + num_errors + num_tokens
        self._num_nodes = self._num_sources + num_logits
        self._lengths = np.full(self._num_nodes, -1)
        self._pieces: list[_Piece] = []
        self._spool = spool
        self._slabs = _Slabs(spool)
        self._dropped = None if share is None else _nothing_dropped(self._num_nodes)
        self._groups = target_groups(num_latents, self._num_nodes, GROUPS)
        self._columns = torch.zeros(
            0 if share is None else self._num_nodes * GROUPS, dtype=torch.float64
        )

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
        indices = new_array(int(indptr[-1]), np.int32, self._spool)
        values = new_array(int(indptr[-1]), np.float32, self._spool)
        self._slabs = _Slabs(self._spool)
        self._pieces.reverse()
        while self._pieces:
            piece = self._pieces.pop()
            _place(piece.indices, piece, indptr, indices)
            _place(piece.values, piece, indptr, values)
        graph = Graph(indptr, indices, values, *self._counts, logit_probabilities, self._dropped)
        if self._dropped is not None:
            self._dropped.column_shares[:] = self._columns.cpu().numpy().reshape(-1, GROUPS)
            self._dropped.propensity[:] = propensities(graph, self._dropped)
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
        held = self._slabs.hold(columns, kept.values.cpu().numpy())
        self._pieces.append(_Piece(nodes, lengths, *held))

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
        self._note_columns(nodes, gone, size.double() / sums[gone.rows])
        counts = torch.bincount(gone.rows, minlength=gone.num_rows)
        self._dropped.row_sums[nodes] = sums.cpu().numpy()
        self._dropped.mass[nodes] = by_kind.view(-1, 3).cpu().numpy()
        self._dropped.counts[nodes] = counts.cpu().numpy()
        self._dropped.largest[nodes] = largest.cpu().numpy()
        self._dropped.last_latent[nodes] = last.cpu().numpy()

    def _note_columns(self, nodes: Ints, gone: SparseRows, shares: Tensor) -> None:
        """Add shares of dropped entries [m] to their columns, on the device where they are."""
        if self._columns.device != shares.device:
            self._columns = self._columns.to(shares.device)
        groups = torch.from_numpy(self._groups[nodes]).to(shares.device)
        self._columns.index_add_(0, gone.columns * GROUPS + groups[gone.rows], shares)

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


class _Slabs:
    """Entries in large arrays, whose memory the system takes back as soon as they go.

    Arrays of some megabytes would stay in the allocator's heap, and the graph would need its
    memory twice.
    """

    def __init__(self, spool: Path | None = None) -> None:
        self._spool = spool
        self._indices = np.empty(0, dtype=np.int32)
        self._values = np.empty(0, dtype=np.float32)
        self._used = 0

    def hold(
        self, indices: npt.NDArray[np.int32], values: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Copies of both [m]."""
        size = len(indices)
        if self._used + size > len(self._indices):
            capacity = max(_SLAB, size)
            self._indices = new_array(capacity, np.int32, self._spool)
            self._values = new_array(capacity, np.float32, self._spool)
            self._used = 0
        place = slice(self._used, self._used + size)
        self._indices[place], self._values[place] = indices, values
        self._used += size
        return self._indices[place], self._values[place]


def new_array(size: int, dtype: type[np.generic], spool: Path | None) -> npt.NDArray[Any]:
    """An array in memory, or of a file in a folder that nobody else sees and that goes with it."""
    if spool is None or not size:
        return np.empty(size, dtype=dtype)
    with tempfile.TemporaryFile(dir=spool) as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=(size,))


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
        np.zeros((n, GROUPS)),
        np.zeros((n, GROUPS)),
    )
