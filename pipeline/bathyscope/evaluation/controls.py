"""Controls: what else could give the rows back. They stand beside every quality figure.

PCA with as many components as the dictionary has active latents, and a random dictionary of the
same size whose reconstructions are scaled once, by least squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary, topk_autoencoder
from bathyscope.metrics.controls import PrincipalComponents, SecondMoments

Reconstruct = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RandomDictionary:
    """Random unit directions, encoder the transpose of the decoder; one scale for all values."""

    dictionary: Dictionary
    mean: Tensor
    scale: float

    def reconstruct(self, x: Tensor) -> Tensor:
        """mean + scale · W_decᵀ top_k(relu(W_dec (x - mean)))."""
        return self.mean + self.scale * (self.dictionary(x.float()) - self.mean)


def fit_components(blocks: Iterable[Tensor], *, width: int, num: int) -> PrincipalComponents:
    """The first `num` principal components of row blocks [n, width]."""
    moments = SecondMoments(width)
    for block in blocks:
        moments.update(block)
    return moments.fit(min(num, width))


@torch.no_grad()
def random_dictionary(
    blocks: Iterable[Tensor], *, mean: Tensor, num_latents: int, k: int, seed: int
) -> RandomDictionary:
    """A random dictionary whose scale fits row blocks [n, width] best.

    scale = Σ (x - mean)·y / Σ y·y, with y the unscaled reconstruction of x - mean.
    """
    width = len(mean)
    dictionary = topk_autoencoder(d_in=width, num_latents=num_latents, k=k, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    dictionary.W_dec.copy_(torch.randn(num_latents, width, generator=generator))
    dictionary.normalize_decoder()
    dictionary.W_enc.copy_(dictionary.W_dec)
    assert dictionary.b_dec is not None
    dictionary.b_dec.copy_(mean)
    dictionary.to(mean.device)
    dot = norm = 0.0
    for block in blocks:
        x = block.float().to(mean.device)
        y = dictionary(x) - mean
        dot += float(((x - mean) * y).sum(dtype=torch.float64))
        norm += float((y * y).sum(dtype=torch.float64))
    return RandomDictionary(dictionary.eval(), mean, dot / norm if norm else 0.0)
