"""How wide the lists of active latents are: as wide as the fullest row needs, and a little more."""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope.errors import BathyscopeError
from bathyscope_kernels import Encoded, RowLists, topk_encode, topk_lists

MOST_ENTRIES = 2**24
"""Slots of all lists of a pass: some 300 MB with what is made of them."""
_STEP = 16


class ListsTooWide(BathyscopeError):
    """So many latents are active that the rows must be gone through in more passes."""


class Width:
    """The number of slots of a row. It follows what is seen, so that most batches fit at once."""

    def __init__(self, start: int, num_latents: int) -> None:
        self._most = num_latents
        self.slots = self._rounded(start)

    def lists_above(
        self,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        *,
        centre: Tensor | None = None,
        floor: Tensor | None = None,
    ) -> RowLists:
        """Every latent whose pre-activation is above its floor [latents], with gradients.

        Raises `ListsTooWide` where lists that hold all would have more than `MOST_ENTRIES` slots.
        """
        while True:
            lists = topk_lists(x, W_enc, b_enc, self.slots, centre=centre, floor=floor)
            if self.slots == self._most or not lists.are_full:
                self.fit(lists.used)
                return lists
            self.grow(len(x))

    @torch.no_grad()
    def encode_above(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, floor: Tensor | None = None
    ) -> Encoded:
        """The same for use: pre-activations of entries first, by how far they are above.

        Weights may be of any dtype that `topk_encode` takes. Raises as `lists_above` does.
        """
        bias = b_enc if floor is None else b_enc.to(floor.dtype) - floor
        while True:
            found = topk_encode(x, W_enc, bias, self.slots)
            used = torch.arange(self.slots, device=x.device) < found.count[:, None]
            if self.slots == self._most or not bool(used[:, -1].any()):
                break
            self.grow(len(x))
        self.fit(used)
        if floor is None:
            return found
        pre = found.values + floor[found.indices.long()].to(found.values.dtype)
        return found._replace(values=pre.masked_fill_(~used, 0))

    def grow(self, rows: int) -> None:
        """Double the slots. Raises `ListsTooWide` as `lists_above` does."""
        wider = self._rounded(2 * self.slots)
        self.slots = wider
        if rows > 1 and rows * wider > MOST_ENTRIES:
            raise ListsTooWide(
                f"Lists of {wider} active latents for {rows} rows take more than {MOST_ENTRIES} "
                "slots. Encode fewer rows at a time."
            )

    def fit(self, used: Tensor) -> None:
        """Take fewer slots where lists leave more than half of them empty."""
        fullest = int(used.any(0).sum())
        if 2 * fullest < self.slots:
            fewer = self.slots - max(self.slots // 4, _STEP)
            self.slots = self._rounded(max(fewer, 2 * fullest))

    def _rounded(self, slots: int) -> int:
        return min(-(-max(slots, 1) // _STEP) * _STEP, self._most)


def passes_for(rows: int, slots: int) -> int:
    """In how many passes rows are gone through with so many slots."""
    return max(1, -(-rows * slots // MOST_ENTRIES))


def row_blocks(rows: int, passes: int) -> list[slice]:
    """The rows of each pass."""
    size = -(-rows // passes)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
