"""AuxK encode: the same selection as TopK among a subset of the latents, mostly the dead ones.

Flow: rows, the full encoder and the subset go in; values and positions in the subset come out.
The auxiliary loss lets the dead latents explain the residual ("Scaling and evaluating sparse
autoencoders", Gao et al. 2024, arXiv:2406.04093, appendix A.2).
"""

import torch
from torch import Tensor

from bathyscope_kernels.encode import Encoded, check_encoder, encode
from bathyscope_kernels.workspace import WORKSPACE_BYTES


def auxk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int,
    subset: Tensor,
    *,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Encoded:
    """Return the k largest of relu(x @ W_enc[subset]^T + b_enc[subset]) per row.

    `subset` is int64 [size]: latents in strictly ascending order. k is capped by its size, so
    the result is [rows, min(k, size)] wide, and 0 wide for an empty subset. The returned indices
    are positions in `subset`: decode with W_dec[subset].

    Everything else is as in `topk_encode`. Gradients to W_enc and b_enc have their full shape
    and are zero outside the subset. Raises ValueError as there, and for k < 1 or a subset of
    another dtype, order or range.
    """
    check_encoder(x, W_enc, b_enc)
    if k < 1:
        raise ValueError(f"auxk_encode got k = {k}, wanted k >= 1")
    _check_subset(subset, W_enc)
    width = min(k, subset.numel())
    if width == 0:
        return _nothing(x, W_enc, b_enc)
    return encode(x, W_enc, b_enc, subset, width, workspace_bytes)


def _check_subset(subset: Tensor, W_enc: Tensor) -> None:
    if subset.dtype != torch.int64 or subset.ndim != 1 or subset.device != W_enc.device:
        raise ValueError(
            f"got a subset {list(subset.shape)} of {subset.dtype} on {subset.device}, wanted "
            f"[size] of torch.int64 on {W_enc.device}; a mask becomes one by "
            "mask.nonzero().squeeze(1)"
        )
    if subset.numel() == 0:
        return
    if bool((subset[1:] <= subset[:-1]).any()):
        raise ValueError("got a subset with repeats or out of order, wanted strictly ascending")
    if int(subset[0]) < 0 or int(subset[-1]) >= W_enc.shape[0]:
        raise ValueError(
            f"got a subset from {int(subset[0])} to {int(subset[-1])}, wanted 0 to "
            f"{W_enc.shape[0] - 1}, the rows of W_enc"
        )


def _nothing(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Encoded:
    # Products of empty slices: 0 wide, yet a loss that adds them can still call backward.
    values = (x @ W_enc[:0].to(x.dtype).T) + b_enc[:0]
    return Encoded(
        values.to(torch.promote_types(values.dtype, torch.float32)),
        torch.zeros(x.shape[0], 0, dtype=torch.int32, device=x.device),
        torch.zeros(x.shape[0], dtype=torch.int32, device=x.device),
    )
