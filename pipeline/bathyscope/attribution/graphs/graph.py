"""An attribution graph as rows of a sparse matrix: how much each node gives to each target.

Nodes come in the order latents, errors, tokens, logits. Rows are targets (latents and logits),
columns sources (latents, errors and tokens); the rows of errors and tokens are empty. Bias nodes
are no part of it: they take no part in influence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bathyscope.errors import GraphError, NonFiniteError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

KINDS = ("latents", "errors", "tokens", "logits")
SOURCE_KINDS = KINDS[:3]


class Entries(Protocol):
    """One number per edge, read by ranges: an array, a memory map, or an array in a store."""

    def __len__(self) -> int: ...

    def __getitem__(self, entries: slice, /) -> Any: ...


@dataclass(frozen=True)
class Dropped:
    """What truncation left out of each row, exactly. Rows are all nodes [n]."""

    row_sums: Floats
    """Σ_s |A[t, s]| over every entry, the dropped ones included [n]."""
    mass: Floats
    """Σ |A[t, s]| over the dropped sources that are latents, errors, tokens [n, 3]."""
    counts: Ints
    """Number of dropped entries, none of which is 0 [n]."""
    largest: npt.NDArray[np.float32]
    """The largest |A[t, s]| that was dropped, 0 where none was [n]."""
    last_latent: Ints
    """The last latent among the dropped sources, -1 where there is none [n]."""
    propensity: Floats
    """How much likelier than others of its kind a source is among dropped entries [n]."""


@dataclass(frozen=True)
class Graph:
    """A directed acyclic graph of direct effects A[t, s], in compressed rows.

    What is O(nodes) is in memory; the entries may lie anywhere. Raises `GraphError` for arrays
    that do not fit together and `NonFiniteError` for a probability that is not finite. The
    entries are checked by `order_of`, which every reader of the graph calls first.
    """

    indptr: Ints
    """Row t holds the entries indptr[t] to indptr[t + 1] [n + 1]."""
    indices: Entries
    """The source of each entry, int32, ascending within a row."""
    values: Entries
    """A[t, s], float32, signed."""
    num_latents: int
    num_errors: int
    num_tokens: int
    num_logits: int
    logit_probabilities: npt.NDArray[Any]
    """p of the target logits, the weights that influence starts from [logits]."""
    dropped: Dropped | None = None
    """What is not among the entries; None where they are all there."""

    def __post_init__(self) -> None:
        counts = [getattr(self, f"num_{kind}") for kind in KINDS]
        if min(counts) < 0 or self.num_logits < 1:
            raise GraphError(f"A graph of {self._counts()}: wanted no negative count, and a logit.")
        if self.indptr.shape != (self.num_nodes + 1,):
            raise GraphError(
                f"indptr has shape {self.indptr.shape}; a graph of {self._counts()} needs "
                f"({self.num_nodes + 1},): one more than the nodes."
            )
        lengths = np.diff(self.indptr)
        if self.indptr[0] != 0 or (lengths < 0).any():
            raise GraphError("indptr must start at 0 and never fall.")
        held = {int(self.indptr[-1]), len(self.indices), len(self.values)}
        if len(held) > 1:
            raise GraphError(
                f"indptr ends at {self.indptr[-1]}, with {len(self.indices)} indices and "
                f"{len(self.values)} values: all three must be the number of edges."
            )
        filled = np.flatnonzero(lengths[self.num_latents : self.first_logit]) + self.num_latents
        if len(filled):
            raise GraphError(
                f"{self.name(filled[0])} has incoming edges; only latents and logits can be "
                "targets. Are the nodes in the order latents, errors, tokens, logits?"
            )
        self._check_logits()
        self._check_dropped()

    @property
    def num_nodes(self) -> int:
        """n, nodes of all four kinds."""
        return self.first_logit + self.num_logits

    @property
    def num_edges(self) -> int:
        """Entries that are kept in rows."""
        return int(self.indptr[-1])

    @property
    def latents(self) -> slice:
        """The nodes that are latents."""
        return slice(0, self.num_latents)

    @property
    def errors(self) -> slice:
        """The nodes that are errors."""
        return slice(self.num_latents, self.num_latents + self.num_errors)

    @property
    def tokens(self) -> slice:
        """The nodes that are tokens."""
        return slice(self.errors.stop, self.first_logit)

    @property
    def logits(self) -> slice:
        """The nodes that are logits."""
        return slice(self.first_logit, self.num_nodes)

    @property
    def first_logit(self) -> int:
        """The first logit, one past the last source."""
        return self.num_latents + self.num_errors + self.num_tokens

    def logit_weights(self) -> Floats:
        """p on the logits and 0 elsewhere [n]."""
        weights = np.zeros(self.num_nodes)
        weights[self.logits] = self.logit_probabilities
        return weights

    def name(self, node: int) -> str:
        """What a person would call a node: `latent 12 (node 12)`, `token 3 (node 140)`."""
        for kind in KINDS:
            nodes = getattr(self, kind)
            if nodes.start <= node < nodes.stop:
                return f"{kind[:-1]} {node - nodes.start} (node {node})"
        return f"node {node}, which is none of {self._counts()}"

    def _counts(self) -> str:
        return ", ".join(f"{getattr(self, f'num_{kind}')} {kind}" for kind in KINDS)

    def _check_logits(self) -> None:
        p = self.logit_probabilities
        if p.shape != (self.num_logits,):
            raise GraphError(f"{p.shape} probabilities for {self.num_logits} logits.")
        wrong = np.flatnonzero(~np.isfinite(p))
        if len(wrong):
            raise NonFiniteError(f"The probability of logit {wrong[0]} is {p[wrong[0]]}.")
        if (p < 0).any():
            raise GraphError(f"The probability of logit {np.argmin(p)} is negative: {p.min()}.")

    def _check_dropped(self) -> None:
        if self.dropped is None:
            return
        n, given = self.num_nodes, self.dropped
        parts = (given.row_sums, given.counts, given.largest, given.last_latent, given.propensity)
        if any(part.shape != (n,) for part in parts) or given.mass.shape != (n, 3):
            raise GraphError(f"What is known of dropped entries must have a row per node, {n}.")
