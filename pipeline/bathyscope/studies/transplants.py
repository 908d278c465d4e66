"""Weights of an autoencoder for one model, made from those of another model's.

    z = f(W_enc (x - b_dec) + b_enc),    x̂ = W_decᵀ z + b_dec

With maps between centred rows, M from x to y and B from y to x, the dictionary of x is read
through B and written through M:

    W_dec' = W_dec M,    W_enc' = W_enc Bᵀ,    b_dec' = ȳ + Mᵀ(b_dec - x̄)
    b_enc' = b_enc + W_enc (x̄ - b_dec + Bᵀ(b_dec' - ȳ))

Where the models differ by a rotation alone, B = Mᵀ and the result is the old dictionary, rotated.
Rows are latents, as in `dictionaries`; all weights here are of rows in their own scale.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.studies.rotations import Rotation


class Weights(NamedTuple):
    """Those of one encoder and one decoder of width d, all of one dtype.

    What is made of them has that dtype, on that device: of 10^6 latents a copy in float64 would be
    as large as all that a training holds.
    """

    W_enc: Tensor
    """[latents, d]"""
    W_dec: Tensor
    """[latents, d]"""
    b_enc: Tensor
    """[latents]"""
    b_dec: Tensor
    """[d]"""

    def only(self, latents: Tensor) -> Weights:
        """Those of some latents, in their order."""
        return Weights(self.W_enc[latents], self.W_dec[latents], self.b_enc[latents], self.b_dec)


def mapped(
    weights: Weights, there: Tensor, back: Tensor, *, mean_x: Tensor, mean_y: Tensor
) -> Weights:
    """The weights for rows y, as the head of this file says, with decoder rows of unit norm.

    `there` is M [d_x, d_y], `back` is B [d_y, d_x]. Raises `ValueError` for other shapes.
    """
    width = weights.W_dec.shape[1]
    if there.shape != back.T.shape or there.shape[0] != width:
        raise ValueError(
            f"the maps are {list(there.shape)} and {list(back.shape)} for a dictionary of width "
            f"{width}: wanted [{width}, d_y] and [d_y, {width}]"
        )
    there, back, mean_x, mean_y = (t.to(weights.W_dec) for t in (there, back, mean_x, mean_y))
    b_dec = mean_y + there.T @ (weights.b_dec - mean_x)
    shift = mean_x - weights.b_dec + back.T @ (b_dec - mean_y)
    return unit_rows(
        Weights(
            weights.W_enc @ back.T,
            weights.W_dec @ there,
            weights.b_enc + weights.W_enc @ shift,
            b_dec,
        )
    )


def tied(weights: Weights) -> Weights:
    """The same decoder with its own rows as encoder, without biases of latents."""
    return weights._replace(W_enc=weights.W_dec.clone(), b_enc=torch.zeros_like(weights.b_enc))


def turned(weights: Weights, rotation: Rotation, *, centre: Tensor) -> Weights:
    """The dictionary of rows that are turned around `centre` [d], with rows of unit norm.

    It codes the turned rows as it coded the rows before.
    """
    forward, inverse, centre = (t.to(weights.W_dec) for t in (*rotation, centre))
    return unit_rows(
        Weights(
            weights.W_enc @ inverse,
            weights.W_dec @ forward.T,
            weights.b_enc,
            centre + forward @ (weights.b_dec - centre),
        )
    )


def principal(scatter: Tensor, mean: Tensor, most: int) -> Weights:
    """Principal directions, each with both signs, as encoder and decoder: at most `most` latents.

    They are float64. `scatter` [d, d] is that of centred rows, `mean` [d] theirs. Largest variance
    first; directions without variance are left out. Raises `ValueError` where there is none.
    """
    values, vectors = torch.linalg.eigh(scatter.double())
    there = int((values > 1e-12 * values[-1].clamp_min(0)).sum()) if float(values[-1]) > 0 else 0
    if not there:
        raise ValueError("the rows are all alike: they have no principal directions")
    rows = vectors.T.flip(0)[:there]
    both = torch.stack([rows, -rows], 1).flatten(0, 1)[:most]
    return Weights(both, both.clone(), both.new_zeros(len(both)), mean.double())


def unit_rows(weights: Weights) -> Weights:
    """The same function with decoder rows of unit norm: the values of latents take the lengths.

    So a latent of which the map lost most gets small values, and gives way to others in a top-k.
    Rows of zeros stay.
    """
    norms = torch.linalg.vector_norm(weights.W_dec, dim=1)
    scale = norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return weights._replace(
        W_enc=weights.W_enc * norms[:, None],
        W_dec=weights.W_dec / scale[:, None],
        b_enc=weights.b_enc * norms,
    )
