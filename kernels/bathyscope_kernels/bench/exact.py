"""How far results are from float64, on a sample of rows so that it stays quick.

An error is the largest absolute difference over the largest magnitude of the exact result.
"""

import torch
from torch import Tensor

from bathyscope_kernels.workspace import blocks

SAMPLE = 16
_AT_A_TIME = 2**25


def sample(total: int, device: torch.device, size: int = SAMPLE) -> Tensor:
    """Return up to `size` row numbers, evenly spread, the first and the last among them."""
    spread = torch.linspace(0, total - 1, min(size, total), dtype=torch.float64, device=device)
    return spread.round().to(torch.int64)


def relative(found: Tensor, exact: Tensor) -> float:
    """Return max |found - exact| / max |exact|; a NaN anywhere gives NaN."""
    if exact.numel() == 0:
        return 0.0
    largest = exact.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return float((found.double() - exact).abs().max() / largest)


def scores(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """Return x @ W^T + b in float64, for a few rows x."""
    out = torch.empty(x.shape[0], W.shape[0], dtype=torch.float64, device=x.device)
    for part in blocks(W.shape[0], max(1, _AT_A_TIME // W.shape[1])):
        out[:, part] = x.double() @ W[part].double().T
    return out if b is None else out.add_(b.double())


def selection(scores: Tensor, values: Tensor, indices: Tensor, bound: float | Tensor) -> float:
    """Error of one row's selection of all `scores` (exact) that reach `bound`.

    The largest of three: how far a value is from its score, by how much a chosen score misses the
    bound, and by how much one exceeds it that was not chosen.
    """
    if indices.numel() == 0:
        return max(0.0, float(scores.max() - bound)) / float(scores.abs().max())
    chosen = scores[indices.to(torch.int64)]
    others = scores.clone().index_fill_(0, indices.to(torch.int64), -torch.inf)
    wrong = (chosen - values.double()).abs().max()
    short = (bound - chosen).max()
    missed = others.max() - bound
    return float(torch.stack([wrong, short, missed]).clamp(min=0).max() / scores.abs().max())


def gathered(values: Tensor, indices: Tensor, matrix: Tensor) -> Tensor:
    """Return the sum over j of values[r, j] * matrix[indices[r, j]] in float64, for a few rows."""
    picked = matrix[indices.to(torch.int64)].double()
    return torch.einsum("rk,rkd->rd", values.double(), picked)


def weight_gradients(
    latent: int, grad: Tensor, x: Tensor, values: Tensor, indices: Tensor, W_dec: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the rows of dW_dec and dW_enc of one latent in float64."""
    row, place = ((indices == latent) & (values > 0)).nonzero(as_tuple=True)
    of_rows = grad[row].double()
    of_pre = of_rows @ W_dec[latent].double()
    return values[row, place].double() @ of_rows, of_pre @ x[row].double()
