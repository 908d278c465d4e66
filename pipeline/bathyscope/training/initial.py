"""Initial weights: unit decoder rows, an encoder that fits them, biases from the data.

Random numbers are drawn per block of latents, so that a process that holds some of the latents
gets the same ones as a process that holds all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.training.forward import forward
from bathyscope.training.mesh import Mesh, Single

BLOCK_LATENTS = 4096
_SAMPLE_ROWS = 1024


@torch.no_grad()
def initialise(
    dictionary: AnyDictionary,
    *,
    x: Tensor,
    y: Tensor,
    mean: Tensor,
    seed: int,
    mesh: Mesh | None = None,
) -> None:
    """Set all weights before the first step.

    `x` [n, d_in] and `y` [n, d_out] are some training rows, scaled as in training, and `mean`
    [d_out] is that of all y. What writes what it reads gets random decoder rows of unit norm and
    their transpose as encoder. Else encoder rows are random, and a decoder row is the mean of
    y - ȳ weighted by its latent's positive pre-activations, of unit norm. b_dec is the mean of y;
    thresholds and b_enc come from pre-activations of the rows. Latents are then scaled by the one
    factor that makes ŷ fit these rows best: latents overlap, and their sum would be too long.
    """
    like = dictionary.parts[0].W_enc
    x, y, mean = (t[:_SAMPLE_ROWS].to(like) for t in (x, y, mean[None]))
    mean = mean[0]
    assert dictionary.b_dec is not None
    dictionary.b_dec.copy_(mean)
    mesh = mesh or Single()
    held = torch.tensor([part.num_latents for part in dictionary.parts])
    totals, offsets = mesh.sum_latents(held).tolist(), mesh.first_latents(held).tolist()
    parts = zip(dictionary.parts, dictionary.read_columns, dictionary.written_columns, strict=True)
    for number, (part, read, written) in enumerate(parts):
        rows = x[:, read] - mean if dictionary.subtracts_b_dec else x[:, read]
        first = sum(totals[:number])
        _set_part(part, rows, y[:, written] - mean[written], seed, first + offsets[number])
        if len(x):
            # All processes look at the same latents of the part.
            some = next(_directions(min(totals[number], BLOCK_LATENTS), part.d_in, seed, first))[1]
            part.b_enc.fill_(part.activation.prepare(rows @ some.to(rows).T))
    fit_scale(dictionary, x=x, y=y, mesh=mesh)


@torch.no_grad()
def fit_scale(dictionary: AnyDictionary, *, x: Tensor, y: Tensor, mesh: Mesh | None = None) -> None:
    """Scale the latents by s = Σ u·(y - b_dec) / Σ u·u, u what they decode to.

    `x` [n, d_in] and `y` [n, d_out] are training rows, scaled as in training; the first 1,024 are
    taken. Nothing changes where s would not be above 0.
    """
    like = dictionary.parts[0].W_enc
    x, y = (t[:_SAMPLE_ROWS].to(like) for t in (x, y))
    mesh = mesh or Single()
    assert dictionary.b_dec is not None
    centre = dictionary.b_dec if dictionary.subtracts_b_dec else None
    held = torch.tensor([part.num_latents for part in dictionary.parts])
    u = forward(dictionary, x, centre, mesh, mesh.first_latents(held)).y_hats[-1] - dictionary.b_dec
    norm = float(u.square().sum())
    factor = float((u * (y - dictionary.b_dec)).sum()) / norm if norm else 0.0
    if factor > 0:
        for part in dictionary.parts:
            part.activation.fit(part.W_enc, part.b_enc, factor)


def _set_part(part: Dictionary, x: Tensor, y: Tensor, seed: int, first: int) -> None:
    for block, rows in _directions(part.num_latents, part.d_in, seed, first):
        rows = rows.to(x)
        part.W_enc[block] = rows
        if part.writes_what_it_reads:
            part.W_dec[block] = rows
        else:
            part.W_dec[block] = normalize(torch.relu(x @ rows.T).T @ y, dim=1)


def _directions(num: int, width: int, seed: int, first: int) -> Iterator[tuple[slice, Tensor]]:
    """Random unit rows for latents first .. first + num, by blocks of the latents' numbers."""
    done = 0
    while done < num:
        number, inside = divmod(first + done, BLOCK_LATENTS)
        # torch's generator on the CPU looks at 32 bits of its seed only.
        drawn = np.random.default_rng([seed, number]).standard_normal(
            (BLOCK_LATENTS, width), dtype=np.float32
        )
        rows = torch.from_numpy(drawn)
        count = min(BLOCK_LATENTS - inside, num - done)
        yield slice(done, done + count), normalize(rows[inside : inside + count], dim=1)
        done += count
