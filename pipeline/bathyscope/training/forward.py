"""The forward pass of a dictionary in training: ŷ and the active latents, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from bathyscope.dictionaries.activation_function import Active, kept
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.dictionaries.peers import Alone
from bathyscope.training.mesh import Mesh
from bathyscope_kernels import Ragged, TooManyEntries, auxk_error, ragged_decode


class Forward(NamedTuple):
    """What the loss is made of."""

    y_hats: Tensor
    """[prefixes, rows, d_out]; the last one is the reconstruction by all latents."""
    active: tuple[Active, ...]
    """The active latents of each part."""
    gate_hat: Tensor | None
    """[rows, d_out]: what the gates alone decode to (Gated), by a decoder without gradient."""


def forward(
    dictionary: AnyDictionary, x: Tensor, centre: Tensor | None, mesh: Mesh, first_latents: Tensor
) -> Forward:
    """Encode and decode rows x [rows, d_in].

    `centre` stands for b_dec where that is subtracted, as a leaf of its own: its gradient is a sum
    over all latents, that of b_dec as a summand is not. `first_latents` has the number of the first
    latent of each part that this process holds.
    """
    active = _active(dictionary, x, centre, mesh)
    prefixes = dictionary.prefixes or (dictionary.num_latents,)
    if len(prefixes) > 1:
        partial = _by_prefix(dictionary.parts[0], active[0], prefixes, int(first_latents[0]))
    else:
        partial = _decoded(dictionary, active, [a.values for a in active], fixed=False)[None]
    assert dictionary.b_dec is not None
    y_hats = mesh.join(partial) + dictionary.b_dec
    if isinstance(dictionary, Dictionary) and dictionary.W_skip is not None:
        y_hats = y_hats + x @ dictionary.W_skip.T
    return Forward(y_hats, active, _gate_hat(dictionary, active, mesh))


def _active(
    dictionary: AnyDictionary, x: Tensor, centre: Tensor | None, mesh: Mesh
) -> tuple[Active, ...]:
    """The active latents of each part. Raises `TooManyEntries`, in all processes or in none."""
    too_many: TooManyEntries | None = None
    found = []
    for part, columns in zip(dictionary.parts, dictionary.read_columns, strict=True):
        try:
            rows = x[:, columns]
            found.append(part.activation.active(rows, part.W_enc, part.b_enc, centre, mesh.peers))
        except TooManyEntries as error:
            too_many = error
    if mesh.peers.any(too_many is not None):
        raise too_many or TooManyEntries("another holder of latents has too many active ones")
    return tuple(found)


def auxk(
    dictionary: AnyDictionary,
    x: Tensor,
    centre: Tensor | None,
    dead: tuple[Tensor, ...],
    mesh: Mesh,
) -> Tensor:
    """What the dead latents decode to [rows, d_out], over all processes that hold some.

    At most d_in // 2 of a part's are used per row.
    """
    peers = mesh.peers
    counts = torch.tensor([len(numbers) for numbers in dead], device=x.device)
    totals = peers.total(counts).tolist()
    found = []
    parts = zip(dictionary.parts, dictionary.read_columns, dead, totals, strict=True)
    for part, columns, numbers, total in parts:
        held, k = part.num_latents, min(max(part.d_in // 2, 1), total)
        if numbers.numel() == 0:
            if total:
                peers.take_part(len(x), x.dtype, k, held)
            continue

        def narrow(values: Tensor, latents: Tensor, k: int = k, held: int = held) -> Tensor:
            return peers.largest_of_lists(values, latents, k, held)

        weights = (part.W_enc, part.b_enc, part.W_dec)
        chosen = None if isinstance(peers, Alone) else narrow
        found.append(auxk_error(x[:, columns], *weights, numbers, k, centre=centre, narrow=chosen))
    # A process without dead latents takes part all the same.
    mine = _summed(found, dictionary.d_out) if found else x.new_zeros(len(x), dictionary.d_out)
    return mesh.join(mine)


def _decoded(
    dictionary: AnyDictionary, active: tuple[Active, ...], values: Sequence[Tensor], fixed: bool
) -> Tensor:
    """The sum of what the parts decode values to [rows, d_out], without b_dec."""
    found = []
    for part, a, z in zip(dictionary.parts, active, values, strict=True):
        W_dec = part.W_dec.detach() if fixed else part.W_dec
        found.append(ragged_decode(z, a.indices, a.offsets, W_dec, row_sparse=True))
    return _summed(found, dictionary.d_out)


def _summed(parts: list[Tensor], d_out: int) -> Tensor:
    """The sum of what parts write [rows, d]: each to the last columns, as many as it has."""
    total = (
        parts[0] if parts[0].shape[1] == d_out else pad(parts[0], (d_out - parts[0].shape[1], 0))
    )
    for part in parts[1:]:
        total = total + pad(part, (d_out - part.shape[1], 0))
    return total


def _by_prefix(
    part: Dictionary, active: Active, prefixes: tuple[int, ...], first_latent: int
) -> Tensor:
    """What each prefix of the latents decodes to [prefixes, rows, d_out], without b_dec.

    The latents between two prefixes are decoded once, and the results added up.
    """
    latents = active.indices + first_latent
    values, indices, counts = [], [], []
    for start, stop in zip((0, *prefixes[:-1]), prefixes, strict=True):
        group = kept(Ragged(*active[:3]), (latents >= start) & (latents < stop))
        values.append(group.values)
        indices.append(group.indices)
        counts.append(group.counts)
    # The groups one below the other: as many rows again for each.
    offsets = torch.nn.functional.pad(torch.cat(counts).cumsum(0), (1, 0))
    decoded = ragged_decode(
        torch.cat(values), torch.cat(indices), offsets, part.W_dec, row_sparse=True
    )
    return decoded.view(len(prefixes), -1, decoded.shape[1]).cumsum(0)


def _gate_hat(dictionary: AnyDictionary, active: tuple[Active, ...], mesh: Mesh) -> Tensor | None:
    """What the gates decode to, through copies of W_dec and b_dec that get no gradient."""
    gates = [a.gate for a in active if a.gate is not None]
    if not gates:
        return None
    assert dictionary.b_dec is not None
    return mesh.join(_decoded(dictionary, active, gates, fixed=True)) + dictionary.b_dec.detach()
