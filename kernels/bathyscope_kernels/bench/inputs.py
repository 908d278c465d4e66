"""Random inputs: rows, weights and active latents as a trained dictionary might see them."""

import torch
from torch import Tensor

from bathyscope_kernels.bench.shapes import ASCENDING, HOT, ZIPF, Shape
from bathyscope_kernels.workspace import blocks

TURNS = 3
"""How many different inputs a case has; rounds go through them over and over."""

_AT_A_TIME = 2**26  # numbers made at a time in float32


def normal(*size: int, device: torch.device, seed: int) -> Tensor:
    """Standard normal float32 numbers."""
    return torch.randn(*size, generator=_generator(device, seed), device=device)


def rows(shape: Shape, device: torch.device, seed: int, dtype: torch.dtype | None = None) -> Tensor:
    """Activations [tokens, d] whose dimensions differ in size."""
    made = normal(shape.tokens, shape.d, device=device, seed=seed)
    made *= torch.linspace(2, 0.2, shape.d, device=device)
    return made.to(dtype or shape.dtype)


def unit_rows(num: int, d: int, dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    """Weights [num, d] with rows of unit norm."""
    made = torch.empty(num, d, dtype=dtype, device=device)
    for turn, part in enumerate(blocks(num, max(1, _AT_A_TIME // d))):
        block = normal(part.stop - part.start, d, device=device, seed=seed + turn)
        made[part] = torch.nn.functional.normalize(block, dim=1)
    return made


def encoder(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """W_enc [latents, d] and b_enc [latents]."""
    W_enc = unit_rows(shape.latents, shape.d, shape.dtype, device, seed=1000)
    b_enc = 0.01 * normal(shape.latents, device=device, seed=999)
    if shape.use == ASCENDING:
        b_enc += torch.linspace(0, 50, shape.latents, device=device)
    return W_enc, b_enc.to(shape.dtype)


def active(shape: Shape, device: torch.device, seed: int) -> tuple[Tensor, Tensor]:
    """Values [tokens, k] float32, descending, and int32 indices, no latent twice in a row."""
    size = (shape.tokens, shape.k)
    values = normal(*size, device=device, seed=seed).abs_().add_(0.01)
    values = values.sort(dim=1, descending=True).values
    choose = _by_weight if shape.use == ZIPF else _spread
    indices = choose(shape, device, _generator(device, seed + 1))
    return values, indices.to(torch.int32)


def _spread(shape: Shape, device: torch.device, generator: torch.Generator) -> Tensor:
    """Uniform use: place j takes any of the j-th part of the latents; places in random order."""
    width = shape.latents // shape.k
    size = (shape.tokens, shape.k)
    indices = torch.randint(0, width, size, generator=generator, device=device)
    if shape.use == HOT:
        indices[:, : shape.k // 4] = 0
    indices += width * torch.arange(shape.k, device=device)
    return indices[:, torch.randperm(shape.k, generator=generator, device=device)]


def _by_weight(shape: Shape, device: torch.device, generator: torch.Generator) -> Tensor:
    """Zipf use without repeats in a row: the k largest of log weight + Gumbel noise."""
    log_weight = -1.1 * torch.arange(1, shape.latents + 1, device=device).log()
    chosen = []
    for part in blocks(shape.tokens, max(1, _AT_A_TIME // shape.latents)):
        size = (part.stop - part.start, shape.latents)
        noise = torch.rand(size, generator=generator, device=device).clamp_(min=1e-30)
        scores = noise.log_().neg_().log_().neg_().add_(log_weight)
        chosen.append(scores.topk(shape.k, dim=1).indices)
    return torch.cat(chosen)


def touched(indices: Tensor) -> int:
    """How many different latents there are."""
    return int(torch.unique(indices).numel())


def _generator(device: torch.device, seed: int) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)
