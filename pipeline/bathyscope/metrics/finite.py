"""Refuses NaN and infinity before they reach a sum."""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope.errors import NonFiniteError


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise `NonFiniteError` that names the tensor, how many values are bad and the first one."""
    finite = torch.isfinite(tensor)
    if bool(finite.all()):
        return
    bad = (~finite).nonzero()
    first = tuple(int(i) for i in bad[0])
    raise NonFiniteError(
        f"{name} of shape {tuple(tensor.shape)} and dtype {tensor.dtype} has {len(bad)} values "
        f"that are NaN or infinite, the first at {first} ({float(tensor[first])}): a metric needs "
        "finite numbers; look for overflow in the model's dtype, or filter these rows"
    )
