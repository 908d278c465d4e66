"""Latents changed inside a running model, with the error term kept.

    x' = x + W_decᵀ (z' - z)

z are the latents of what the dictionary reads, z' the same after the interventions. What the
dictionary does not explain stays in x, so an intervention that changes nothing leaves the output as
it was, bit for bit. An autoencoder changes what it reads; a transcoder reads at one hook point and
changes another, its skip path untouched; the latents of a cross-layer transcoder's layer l change
the outputs of all layers from l on by what they write there themselves. What later latents make of
it is left to the model: they read the changed stream as the forward goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bathyscope.attribution.interventions.changes import Mean, Resample, Steer, applied
from bathyscope.attribution.interventions.intervention import Intervention, Latents
from bathyscope.attribution.interventions.place import Place
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.errors import HookPointError, ModelError
from bathyscope_kernels import Encoded


class PartChanges:
    """The interventions on latents of one encoder with its decoder.

    `first` is the number of its first latent in the whole dictionary, `columns` those that it
    reads of rows given for all of it.
    """

    def __init__(
        self, part: Dictionary, interventions: Sequence[Intervention], first: int, columns: slice
    ) -> None:
        self.part = part
        chosen = [_indices(each, first, part.num_latents) for each in interventions]
        self._interventions = [e for e, some in zip(interventions, chosen, strict=True) if some]
        self._latents = torch.tensor(
            sorted({i for some in chosen for i in some}), dtype=torch.int64
        )
        place = {int(latent): slot for slot, latent in enumerate(self._latents)}
        self._slots = [[place[i] for i in some] for some in chosen if some]
        # Parts without a change are as many as a model has layers: they get no table.
        self._lookup = torch.full((part.num_latents if place else 0,), -1)
        self._lookup[self._latents] = torch.arange(len(self._latents))
        # A steering needs no latents: it adds the same whatever they are.
        self._encodes = any(not isinstance(e.change, Steer) for e in self._interventions)
        self._references = [
            self._reference(each, slots, columns)
            for each, slots in zip(self._interventions, self._slots, strict=True)
        ]

    def __bool__(self) -> bool:
        return bool(self._interventions)

    def change(self, name: str, x: Tensor, place: Place) -> _Delta:
        """z' - z of the rows of x [..., d_in] that are chosen."""
        _check_width(name, x, self.part.d_in)
        rows = [place.rows(name, x, each.positions) for each in self._interventions]
        numbers = torch.cat([number for number, _ in rows]).unique()
        before = self._values(x.reshape(-1, x.shape[-1])[numbers.to(x.device)])
        after = before
        for each, slots, (number, where), reference in zip(
            self._interventions, self._slots, rows, self._references, strict=True
        ):
            mine = torch.searchsorted(numbers, number).to(before.device)[:, None]
            columns = torch.tensor(slots, device=before.device)
            old = after[mine, columns]
            after = after.index_put((mine, columns), applied(each.change, old, where, reference))
        return _Delta(numbers, after - before, self._latents)

    def _values(self, x: Tensor) -> Tensor:
        """The latents that are changed, of rows x [rows, d_in]: [rows, changed latents]."""
        weights = self.part.W_enc
        dtype = torch.float64 if weights.dtype == torch.float64 else torch.float32
        if not self._encodes or len(x) == 0:
            return torch.zeros(len(x), len(self._latents), dtype=dtype, device=weights.device)
        latents = self.part.encode(x.to(weights.device, dtype))
        return picked(latents, self._lookup.to(weights.device), len(self._latents))

    def _reference(
        self, intervention: Intervention, slots: list[int], columns: slice
    ) -> Tensor | None:
        change = intervention.change
        if not isinstance(change, Mean | Resample):
            return None
        assert change.activations is not None, "with_reference has put them in place"
        x = change.activations[..., columns]
        values = self._values(x.reshape(-1, x.shape[-1]).contiguous())
        return values[:, slots].reshape(*x.shape[:-1], len(slots))


class _Delta:
    """z' - z of some rows and latents, to be written to one or several hook points."""

    def __init__(self, numbers: Tensor, delta: Tensor, latents: Tensor) -> None:
        self.numbers, self._delta, self._latents = numbers, delta, latents

    def written(self, part: Dictionary, columns: slice) -> tuple[Tensor, Tensor]:
        """What is added to the rows [n, columns], and which of them it changes [n, 1]."""
        W_dec = part.W_dec[self._latents.to(part.W_dec.device), columns]
        return self._delta @ W_dec.to(self._delta.dtype), (self._delta != 0).any(1, keepdim=True)


class LatentChanges:
    """All interventions on the latents of one dictionary, while a model runs.

    `read` and `write` are called by the hooks of its hook points.
    """

    def __init__(self, interventions: Sequence[Intervention], place: Place) -> None:
        (dictionary,) = {each.target.dictionary for each in interventions}  # type: ignore[union-attr]
        self._place = place
        self._outputs = dictionary.outputs
        self._parts: list[PartChanges] = []
        self._written = dictionary.written_columns
        first = 0
        for part, columns in zip(dictionary.parts, dictionary.read_columns, strict=True):
            self._parts.append(PartChanges(part, interventions, first, columns))
            first += part.num_latents
        self._reads = [block.hook_point for block in dictionary.inputs]
        self._pending: dict[int, _Delta] = {}

    @property
    def reads(self) -> dict[int, str]:
        """Parts whose latents are changed -> the hook point that each reads."""
        return {n: self._reads[n] for n, part in enumerate(self._parts) if part}

    @property
    def writes(self) -> list[str]:
        """Hook points that are changed."""
        used = list(self.reads)
        return [
            block.hook_point
            for block in self._outputs
            if any(self._written[n].start <= block.start for n in used)
        ]

    def read(self, number: int, x: Tensor) -> None:
        """What a part's latents are to become, from the tensor x at the hook point it reads."""
        self._pending[number] = self._parts[number].change(self._reads[number], x, self._place)

    def write(self, hook_point: str, y: Tensor) -> Tensor:
        """The tensor y at a hook point with what the changed latents add to it.

        Raises `HookPointError` where a part that writes there has read nothing yet.
        """
        block = next(b for b in self._outputs if b.hook_point == hook_point)
        for number, read in self.reads.items():
            if self._written[number].start > block.start:
                continue
            if number not in self._pending:
                raise HookPointError(
                    f"The dictionary writes {hook_point}, which the forward reaches before {read}, "
                    "which it reads. Its latents are not known yet."
                )
            # A later layer starts anew with the next forward.
            delta = self._pending[number]
            if block == self._outputs[-1]:
                del self._pending[number]
            start = block.start - self._written[number].start
            columns = slice(start, start + block.width)
            _check_width(hook_point, y, block.width)
            y = added(y, delta.numbers, *delta.written(self._parts[number].part, columns))
        return y


def picked(latents: Encoded, lookup: Tensor, count: int) -> Tensor:
    """Values [rows, count] of the latents whose place in `lookup` is not -1; 0 where inactive."""
    used = torch.arange(latents.values.shape[1], device=lookup.device) < latents.count[:, None]
    slots = lookup[latents.indices.long()]
    mine = used & (slots >= 0)
    # The last column takes what nobody asked for.
    found = latents.values.new_zeros(len(latents.values), count + 1)
    values = latents.values.masked_fill(~mine, 0)
    return found.scatter(1, slots.masked_fill(~mine, count), values)[:, :count]


def added(y: Tensor, numbers: Tensor, delta: Tensor, touched: Tensor) -> Tensor:
    """y [..., d] with delta [n, d] added to some of its rows, the others as they are to the bit.

    Sums are made in the wider of the two dtypes and rounded once.
    """
    if len(numbers) == 0:
        return y
    numbers = numbers.to(y.device)
    flat = y.reshape(-1, y.shape[-1])
    old = flat[numbers]
    wide = torch.promote_types(y.dtype, delta.dtype)
    new = (old.to(wide) + delta.to(y.device, wide)).to(y.dtype)
    # -0.0 + 0.0 is 0.0: rows whose latents did not change are not added to at all.
    new = torch.where(touched.to(y.device), new, old)
    return flat.index_copy(0, numbers, new).reshape(y.shape)


def _check_width(name: str, x: Tensor, width: int) -> None:
    if x.shape[-1] != width:
        raise ModelError(
            f"The dictionary has {width} columns for {name}, but the model's activations there "
            f"have {x.shape[-1]} numbers. It belongs to another model."
        )


def _indices(intervention: Intervention, first: int, count: int) -> list[int]:
    """The numbers, in a part, of the latents that are changed."""
    assert isinstance(intervention.target, Latents)
    return [i - first for i in intervention.target.indices if first <= i < first + count]
