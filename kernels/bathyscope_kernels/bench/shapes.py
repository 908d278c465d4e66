"""The shapes that are measured, and how the latents are used in them."""

from typing import NamedTuple

import torch

UNIFORM = "uniform"
ZIPF = "zipf"
"""The n-th latent is used in proportion to n ** -1.1."""
HOT = "hot"
"""A quarter of the places in each row go to the same latents."""
ASCENDING = "ascending"
"""Later latents score higher in every row: the worst order for a running threshold."""


class Shape(NamedTuple):
    """tokens rows of width d, `latents` rows in each weight matrix, k active per row."""

    tokens: int
    d: int
    latents: int
    k: int
    dtype: torch.dtype
    name: str = ""
    use: str = UNIFORM

    @property
    def label(self) -> str:
        """What tells one shape from another: tokens, d, latents, k, and the use if it is odd."""
        sizes = f"{self.tokens} x {self.d} x {self.latents}, k {self.k}"
        return sizes if self.use == UNIFORM else f"{sizes}, {self.use}"

    @property
    def title(self) -> str:
        """The label, after the name if the shape has one."""
        return f"{self.name}  {self.label}" if self.name else self.label


def for_device(device: torch.device) -> list[Shape]:
    """Return the shapes of a device, the most telling first."""
    if device.type == "cuda":
        return _CUDA
    return [Shape(2048, 576, 8192, 32, torch.float32), Shape(2048, 768, 24576, 32, torch.float32)]


def parse(text: str, device: torch.device) -> Shape:
    """Read "tokens,d,latents,k"; raises ValueError for anything else."""
    try:
        tokens, d, latents, k = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"got shape {text!r}, wanted tokens,d,latents,k such as 2048,576,8192,32"
        ) from None
    if min(tokens, d, k) < 1 or k > latents:
        raise ValueError(f"got shape {text!r}, wanted positive sizes and k of at most latents")
    return Shape(tokens, d, latents, k, _dtype(device))


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _bf16(*sizes: int, name: str = "", use: str = UNIFORM) -> Shape:
    tokens, d, latents, k = sizes
    return Shape(tokens, d, latents, k, torch.bfloat16, name, use)


_S, _M, _L = (768, 24576, 32), (4096, 131072, 64), (8192, 1048576, 128)
_GEMMA_SCOPE, _FLEXSAE = (2304, 16384, 64), (2304, 65536, 64)

_CUDA = [
    _bf16(8192, *_S, name="S"),
    _bf16(8192, *_M, name="M"),
    _bf16(8192, *_L, name="L"),
    *(_bf16(8192, *_M, name="M", use=use) for use in (ASCENDING, ZIPF, HOT)),
    _bf16(8192, *_GEMMA_SCOPE),
    _bf16(8192, *_FLEXSAE),
    _bf16(8192, 4096, 65536, 256),  # near where a dense decode is as quick
    _bf16(8192, 5120, 262144, 128),
    _bf16(8192, 770, 24577, 33),
    _bf16(8192, 4096, 131072, 1),
    *(_bf16(1024, *sizes) for sizes in (_S, _M, _L, _GEMMA_SCOPE, _FLEXSAE)),
    *(_bf16(65536, *sizes) for sizes in (_S, _M, _L, _GEMMA_SCOPE, _FLEXSAE)),
]
