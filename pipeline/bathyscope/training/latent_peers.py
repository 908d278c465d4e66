"""Processes that hold the latents of a dictionary together, and choose among all of them.

A choice is by keys: the value, then the smaller row, then the smaller latent. Each process sends
the keys of its best candidates, all get all of them, and the smallest key that is chosen is the
bound for everybody. So the choice is that of one process that holds all latents.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from bathyscope.dictionaries.peers import groups_of
from bathyscope.training.collectives import Collectives
from bathyscope_kernels import Ragged
from bathyscope_kernels.ragged import row_of
from bathyscope_kernels.score_blocks import orderable

_NOTHING = torch.iinfo(torch.int64).min
_LOW_BITS = 32


class _Keys(NamedTuple):
    """What candidates [rows, n] compete with: larger `order` first, then smaller `place`."""

    order: Tensor
    place: Tensor | None
    """None where `order` holds both."""

    def best(self, wanted: int) -> _Keys:
        """The `wanted` first of each row, in order; padded where there are fewer."""
        order, place = self
        if place is not None:
            place, by_place = place.sort(dim=1)
            order = order.gather(1, by_place)
        order, by_order = order.sort(dim=1, descending=True, stable=True)
        if place is not None:
            place = place.gather(1, by_order)
        return _Keys(order[:, :wanted], None if place is None else place[:, :wanted]).padded(wanted)

    def padded(self, width: int) -> _Keys:
        """With places for nothing up to a width."""
        missing = (0, width - self.order.shape[1])
        place = None if self.place is None else pad(self.place, missing, value=_NOTHING)
        return _Keys(pad(self.order, missing, value=_NOTHING), place)

    def as_lists(self, rows: Tensor, within: Tensor, num_rows: int, width: int) -> _Keys:
        """Keys [n] at these places of lists [num_rows, width]."""

        def spread(part: Tensor) -> Tensor:
            return part.new_full((num_rows, width), _NOTHING).index_put_((rows, within), part)

        return _Keys(spread(self.order), None if self.place is None else spread(self.place))

    def reaches(self, bound: _Keys) -> Tensor:
        """Which keys do not come after the bound [rows, 1]."""
        if self.place is None or bound.place is None:
            return self.order >= bound.order
        tied = (self.order == bound.order) & (self.place <= bound.place)
        return (self.order > bound.order) | tied


class LatentPeers:
    """The ranks of one group that share the latents of the part that is being encoded."""

    def __init__(self, collectives: Collectives, group: dist.ProcessGroup, place: int) -> None:
        self._do = collectives
        self._group = group
        self._size = dist.get_world_size(group)
        self._place = place

    def any(self, flag: bool) -> bool:
        """Whether the flag is set at any rank."""
        given = torch.tensor([int(flag)], device=self._do.device)
        return bool(self._do.reduce(given, self._group, dist.ReduceOp.MAX, "flags"))

    def total(self, counts: Tensor) -> Tensor:
        """The sum over all ranks."""
        return self._do.reduce(counts.clone(), self._group, dist.ReduceOp.SUM, "counts")

    def least(self, level: float) -> float:
        """The smallest of all ranks."""
        given = torch.tensor([level], dtype=torch.float64, device=self._do.device)
        return float(self._do.reduce(given, self._group, dist.ReduceOp.MIN, "levels"))

    def largest(self, entries: Ragged, k: int, group_rows: int, held: int) -> Tensor:
        """Which entries here are among the k * rows largest of their group at all ranks."""
        values = entries.values.detach()
        rows = row_of(entries.offsets, len(values))
        latents = entries.indices.long() + held * self._place
        if group_rows == 1:
            # Rows have at most k entries here: lists of one width, one exchange for all rows.
            within = torch.arange(len(values), device=values.device) - entries.offsets[rows]
            keys = self._keys(values, latents, held * self._size)
            lists = keys.as_lists(rows, within, entries.num_rows, k)
            return lists.reaches(self._bound(lists, k))[rows, within]
        keep = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
        for number, (num_rows, start, stop) in enumerate(groups_of(entries, group_rows)):
            inside = rows[start:stop] - number * group_rows
            places = inside * (held * self._size) + latents[start:stop]
            keys = self._keys(values[start:stop], places, num_rows * held * self._size)
            one = _Keys(keys.order[None], None if keys.place is None else keys.place[None])
            longest = min(self._longest(one.order.shape[1]), k * num_rows)
            bound = self._bound(one, k * num_rows, sent=longest)
            keep[start:stop] = one.reaches(bound)[0]
        return keep

    def largest_of_lists(self, values: Tensor, latents: Tensor, k: int, held: int) -> Tensor:
        """Which positive values [rows, n] of latents [n] are among the k largest of a row."""
        places = (latents + held * self._place).expand_as(values)
        keys = self._keys(values, places, held * self._size)
        keys = keys._replace(order=keys.order.masked_fill(~(values > 0), _NOTHING))
        return keys.reaches(self._bound(keys, k)) & (values > 0)

    def take_part(self, rows: int, dtype: torch.dtype, k: int, held: int) -> None:
        """Join `largest_of_lists` of the others without a candidate."""
        nothing = torch.zeros(rows, 0, dtype=dtype, device=self._do.device)
        latents = torch.zeros(0, dtype=torch.int64, device=self._do.device)
        self.largest_of_lists(nothing, latents, k, held)

    def _bound(self, keys: _Keys, wanted: int, sent: int | None = None) -> _Keys:
        """The last of the `wanted` first of each row, at all ranks [rows, 1]."""
        mine = keys.best(wanted if sent is None else sent)
        order, place = (None if part is None else self._gather(part) for part in mine)
        assert order is not None
        best = _Keys(order, place).best(wanted)
        last = slice(wanted - 1, wanted)
        return _Keys(best.order[:, last], None if best.place is None else best.place[:, last])

    def _gather(self, lists: Tensor) -> Tensor:
        return torch.cat(self._do.gather(lists, self._group, self._size, "keys"), dim=1)

    def _longest(self, length: int) -> int:
        given = torch.tensor([length], device=self._do.device)
        return int(self._do.reduce(given, self._group, dist.ReduceOp.MAX, "counts"))

    @staticmethod
    def _keys(values: Tensor, places: Tensor, num_places: int) -> _Keys:
        order = orderable(values).to(torch.int64)
        if values.dtype == torch.float32 and num_places <= 2**_LOW_BITS:
            return _Keys((order << _LOW_BITS) | (2**_LOW_BITS - 1 - places), None)
        return _Keys(order, places)
