"""Initial weights: unit decoder rows, encoder their transpose, bias from the data."""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope.dictionaries.topk import TopK


def initial_topk(
    *, d_in: int, num_latents: int, k: int, hook_point: str, mean: Tensor, seed: int
) -> TopK:
    """A TopK dictionary before its first step, in float32.

    Decoder rows are random directions of unit norm, the encoder starts as the decoder, and
    b_dec is the mean of the (scaled) training rows [d_in].
    """
    dictionary = TopK(
        d_in=d_in, num_latents=num_latents, k=k, hook_point=hook_point, dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.randn(num_latents, d_in, generator=generator))
        dictionary.normalize_decoder()
        dictionary.W_enc.copy_(dictionary.W_dec)
        dictionary.b_dec.copy_(mean)
    return dictionary
