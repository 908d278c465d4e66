"""Resampling: dead latents start anew from rows that are reconstructed badly.

Bricken et al. 2023 ("Towards Monosemanticity", appendix on neuron resampling): rows are drawn with
probability in proportion to the square of their loss ‖y - ŷ‖²; a dead latent's decoder row becomes
the unit vector of the row, its encoder row points the same way with a fifth of the mean norm of
alive encoder rows, and its moments of Adam are zero again. Here

- rows are those of one batch, and none is drawn twice: no two latents start alike. Of more dead
  latents than rows the first ones are resampled;
- biases and thresholds get the same share of the alive latents' mean. In the paper biases are 0:
  with that a new latent of ReLU is active in half of all rows;
- TopK and BatchTopK get all of the mean norm: with a fifth of it no new latent would be among the
  largest, and all would stay dead;
- what writes something else than it reads gets the direction of y - ŷ for a decoder row, and that
  of x less the mean of the batch for an encoder row.

The draw is a race: row r arrives at -log(u_r) / loss_r², and the first ones are taken. u comes from
a counter-based generator keyed by seed and step, so that a training that is resumed, or split over
other processes, draws the same rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bathyscope.dictionaries.batch_topk import BatchTopK
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.dictionaries.topk import TopK
from bathyscope.training.mesh import Mesh
from bathyscope_kernels import RowSparseAdam

SHARE, SHARE_OF_SELECTED = 0.2, 1.0
"""Of the alive latents' mean; the second where latents are chosen by size, as in TopK."""
_RATIOS = ("r_mag",)
_SELECTING = (TopK.name, BatchTopK.name)


class Rows(NamedTuple):
    """The rows of a batch that this process has, and how they are reconstructed."""

    x: Tensor
    y: Tensor
    error: Tensor
    """y - ŷ [n, d_out]."""


@torch.no_grad()
def resample(
    dictionary: AnyDictionary,
    optimizer: RowSparseAdam,
    rows: Rows,
    dead: tuple[Tensor, ...],
    mesh: Mesh,
    *,
    seed: int,
    step: int,
) -> tuple[Tensor, ...]:
    """Set dead latents anew; returns the numbers of those of each part that were.

    `dead` are numbers of latents of each part in this process, ascending.
    """
    num_rows = int(mesh.sum_rows(torch.tensor(len(rows.x), device=rows.x.device)))
    mean = mesh.sum_rows(rows.x.sum(0)) / num_rows
    held = torch.tensor([part.num_latents for part in dictionary.parts], device=rows.x.device)
    firsts = mesh.first_latents(held).tolist()
    totals = mesh.sum_latents(held).tolist()
    done = []
    for number, part in enumerate(dictionary.parts):
        order = _numbered(dead[number], firsts[number], totals[number], mesh)
        draw = step * len(dictionary.parts) + number
        chosen = drawn(rows.error, num_rows, len(order), mesh, key=(seed, draw))
        order = order[: len(chosen)]
        mine = (order >= firsts[number]) & (order < firsts[number] + part.num_latents)
        read, write = _directions(dictionary, number, rows, chosen, mean, mesh)
        own = order[mine] - firsts[number]
        centre = mean if not part.writes_what_it_reads else dictionary.b_dec
        assert centre is not None
        offset = None
        if not dictionary.subtracts_b_dec:
            offset = centre[dictionary.read_columns[number]]
        _set(part, own, read[mine], write[mine], offset, _alive(part, dead[number], mesh))
        _forget(part, own, optimizer)
        done.append(own)
    return tuple(done)


def drawn(error: Tensor, num_rows: int, count: int, mesh: Mesh, *, key: tuple[int, int]) -> Tensor:
    """Numbers of at most `count` rows of the batch, in the order in which they are drawn.

    `error` [n, d] is that of this process's rows; rows without error are never drawn.
    """
    losses = error.double().square().sum(1)
    generator = np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))
    uniform = 1 - torch.from_numpy(generator.random(num_rows)).to(error.device)
    first = mesh.first_row(len(error))
    mine = slice(first, first + len(error))
    arrivals = losses.new_zeros(num_rows)
    arrivals[mine] = -uniform[mine].log() / losses.square()
    arrivals = mesh.sum_rows(arrivals)
    order = arrivals.argsort(stable=True)[:count]
    return order[torch.isfinite(arrivals[order])]


def _numbered(dead: Tensor, first: int, total: int, mesh: Mesh) -> Tensor:
    """The dead latents of all processes, in the numbers of the whole part, ascending."""
    flags = torch.zeros(total, dtype=torch.int32, device=dead.device)
    flags[first + dead] = 1
    return mesh.sum_latents(flags).nonzero().flatten()


def _directions(
    dictionary: AnyDictionary, number: int, rows: Rows, chosen: Tensor, mean: Tensor, mesh: Mesh
) -> tuple[Tensor, Tensor]:
    """Unit vectors that latents of a part are to read and to write [chosen, d]."""
    part = dictionary.parts[number]
    read, written = dictionary.read_columns[number], dictionary.written_columns[number]
    x = _picked(rows.x, chosen, mesh)[:, read]
    if part.writes_what_it_reads:
        assert dictionary.b_dec is not None
        direction = normalize(x - dictionary.b_dec[read], dim=1)
        return direction, direction
    error = _picked(rows.error, chosen, mesh)[:, written]
    return normalize(x - mean[read], dim=1), normalize(error, dim=1)


def _picked(rows: Tensor, chosen: Tensor, mesh: Mesh) -> Tensor:
    """Rows by their number in the batch [chosen, d], wherever they are."""
    places = chosen - mesh.first_row(len(rows))
    here = (places >= 0) & (places < len(rows))
    found = rows.new_zeros(len(chosen), rows.shape[1])
    found[here] = rows[places[here]]
    return mesh.sum_rows(found)


def _alive(part: Dictionary, dead: Tensor, mesh: Mesh) -> dict[str, float]:
    """Means over alive latents of all processes: the encoder's norm, and numbers per latent."""
    alive = torch.ones(part.num_latents, dtype=torch.bool, device=dead.device)
    alive[dead] = False
    numbers = {"W_enc": torch.linalg.vector_norm(part.W_enc, dim=1), "b_enc": part.b_enc}
    numbers |= dict(part.activation.named_parameters())
    sums = torch.stack([*(n.double()[alive].sum() for n in numbers.values()), alive.sum().double()])
    *found, count = mesh.sum_latents(sums).tolist()
    return {name: total / max(count, 1) for name, total in zip(numbers, found, strict=True)}


def _set(
    part: Dictionary,
    latents: Tensor,
    read: Tensor,
    write: Tensor,
    offset: Tensor | None,
    alive: dict[str, float],
) -> None:
    share = SHARE_OF_SELECTED if part.activation.name in _SELECTING else SHARE
    # Where no latent is alive there is no norm to take a share of.
    norm = share * (alive["W_enc"] or 1.0)
    part.W_enc[latents] = norm * read
    part.W_dec[latents] = write
    part.b_enc[latents] = share * alive["b_enc"]
    if offset is not None:
        part.b_enc[latents] -= norm * (read @ offset)
    for name, parameter in part.activation.named_parameters():
        parameter[latents] = (1.0 if name in _RATIOS else share) * alive[name]


def _forget(part: Dictionary, latents: Tensor, optimizer: RowSparseAdam) -> None:
    """Set Adam's moments of these latents to zero."""
    of_latents = [part.W_enc, part.W_dec, part.b_enc, *part.activation.parameters()]
    for parameter in of_latents:
        moments = optimizer.state.get(parameter)
        if moments:
            moments["exp_avg"][latents] = 0
            moments["exp_avg_sq"][latents] = 0
