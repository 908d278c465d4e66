"""A piece of a night while its documents may still be cut: one unit's rows, or several units'.

A unit is a fixed range of items, so its first document may have begun in the unit before and its
last may go on in the next. A part therefore keeps its first and its last document open, outside its
totals. Parts are joined in the order of their rows: an end that goes on is added up, an end that
does not is now known to be whole and settles into the totals. Joining is associative and exact, so
a tree of joins, a long chain and a single pass give the same integers. `close` settles the two
ends when the night is complete.
"""

from __future__ import annotations

from typing import Any, Self

from numpy.typing import NDArray

from bathyscope.features.drift.documents import Documents, Scales, no_documents, sum_documents
from bathyscope.features.drift.totals import Totals


class NightPart:
    """Accumulates top-k rows of documents in order, with both ends open.

    An open document costs 24 bytes for each latent that fires in it, whatever its length.
    """

    def __init__(self, num_latents: int, scales: Scales) -> None:
        self.totals = Totals(num_latents, scales)
        self.first, self.last = no_documents(), no_documents()
        """At most one document each; the last is empty while there is only one."""

    def add(
        self,
        values: NDArray[Any],
        indices: NDArray[Any],
        documents: NDArray[Any],
        *,
        errors: NDArray[Any] | None = None,
        norms: NDArray[Any] | None = None,
    ) -> None:
        """Add the next rows: values float [n, k] (0 is padding), indices and documents integer.

        `errors` ‖x - x̂‖² and `norms` ‖x - μ‖² float [n] are for the FVU; μ is the same vector
        every night, for instance the mean of the training rows. Rows that are left out (first
        positions, special tokens) are left out here as well.
        Raises as `sum_documents` does, and `ValueError` for a document from before, each before
        anything is added.
        """
        if (errors is None) != (norms is None):
            raise ValueError("errors need norms and norms need errors: pass both or neither")
        summed = sum_documents(
            values, indices, documents,
            num_latents=self.totals.num_latents, scales=self.totals.scales,
            errors=errors, norms=norms,
        )  # fmt: skip
        self._follow(summed)

    def join(self, later: NightPart) -> None:
        """Add the part whose rows come next.

        Raises `ValueError` for other latents or scales, and for parts in another order.
        """
        ends = later.first.join(later.last)
        if not len(ends.ids):
            return
        self.totals.check_same(later.totals)
        self._check_order(ends)
        self.totals.merge(later.totals)
        self._follow(ends)

    def close(self) -> Totals:
        """Return the totals with both ends in them, as of a night that is complete."""
        made = Totals(self.totals.num_latents, self.totals.scales)
        made.merge(self.totals)
        made.add(self.first.join(self.last))
        return made

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state as named arrays; what a receipt's file or an npz can hold."""
        ends = self.first.to_arrays("first.") | self.last.to_arrays("last.")
        return self.totals.to_arrays() | ends

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """Return the part that `to_arrays` described; the arrays are copied."""
        totals = Totals.from_arrays(arrays)
        made = cls(1, totals.scales)
        made.totals = totals
        made.first = Documents.from_arrays(arrays, "first.")
        made.last = Documents.from_arrays(arrays, "last.")
        return made

    def _follow(self, later: Documents) -> None:
        """Append documents; what now lies between the first and the last one is whole."""
        self._check_order(later)
        open_ = self.last if len(self.last.ids) else self.first
        chain = open_.join(later)
        if open_ is self.first:
            self.first, chain = chain.part(0, 1), chain.part(1, len(chain.ids))
        if len(chain.ids):
            self.totals.add(chain.part(0, len(chain.ids) - 1))
            self.last = chain.part(len(chain.ids) - 1, len(chain.ids))

    def _check_order(self, later: Documents) -> None:
        open_ = self.last if len(self.last.ids) else self.first
        if len(open_.ids) and len(later.ids) and later.ids[0] < open_.ids[0]:
            raise ValueError(
                f"document {later.ids[0]} follows document {open_.ids[0]}: wanted rows, and parts, "
                "in the order of their documents"
            )
        if len(later.latents) and later.latents.max() >= self.totals.num_latents:
            raise ValueError(
                f"latent {later.latents.max()} of {self.totals.num_latents}: these documents are "
                "of another dictionary"
            )
