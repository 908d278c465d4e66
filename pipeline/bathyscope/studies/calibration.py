"""What prunable weights are multiplied with, summed over calibration batches.

    squares  Σ_n x_nj²          per input column, float64   (Wanda: Sun et al. 2023)
    hessian  H = Σ_n x_n x_nᵀ   per input pair, float32     (SparseGPT: Frantar & Alistarh 2023)

The products with the weights themselves are watched, not what modules receive: a convolution may
pad its input in a way of its own, and two modules may share a weight. A convolution's x are the
patches that it multiplies, one for each output position.

H takes in² numbers per weight, more than the weight itself in most models. `gathered` therefore
takes weights in groups that fit a budget and runs the batches once per group; the sums do not
depend on how the groups fall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bathyscope.errors import ModelError, NonFiniteError
from bathyscope.studies.prunable import PrunableWeight

MEMORY_BYTES = 8 * 2**30
"""Default budget of the Hessians that are held at once."""
_PATCH_BYTES = 2**26


@dataclass
class InputStatistics:
    """Sums over the inputs of one weight, for each of its groups."""

    rows: int
    """Inputs seen: tokens, or output positions of a convolution."""
    squares: Tensor
    """Σ x² [groups, in], float64."""
    hessian: Tensor | None
    """Σ x xᵀ [groups, in, in] in float32, or float64 for weights in float64; None if not asked."""

    def add(self, x: Tensor) -> None:
        """Add inputs [groups, n, in]."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        self.rows += x.shape[1]
        self.squares += wide.double().square().sum(1)
        if self.hessian is not None:
            self.hessian += wide.transpose(1, 2) @ wide


def empty_statistics(weight: PrunableWeight, *, hessian: bool) -> InputStatistics:
    """Sums over no input, on the weight's device."""
    columns, device = weight.shape[1], weight.parameter.device
    squares = torch.zeros(weight.groups, columns, dtype=torch.float64, device=device)
    dtype = torch.promote_types(weight.parameter.dtype, torch.float32)
    matrix = torch.zeros(weight.groups, columns, columns, dtype=dtype, device=device)
    return InputStatistics(0, squares, matrix if hessian else None)


def gathered(
    weights: Sequence[PrunableWeight],
    forwards: Callable[[], None],
    *,
    hessian: bool,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[tuple[PrunableWeight, InputStatistics]]:
    """Each weight with the sums over all inputs of `forwards`, which runs every batch once.

    `forwards` is called once for each group of weights whose Hessians fit `memory_bytes`, at least
    one. Nothing may be changed between two of the weights. Raises ModelError for a weight that no
    batch reached, and NonFiniteError for inputs that are NaN or infinite.
    """
    for group in _groups(weights, memory_bytes if hessian else None):
        sums = {id(w.parameter): empty_statistics(w, hessian=hessian) for w in group}
        with torch.no_grad(), _Watch(group, sums):
            forwards()
        for weight in group:
            found = sums.pop(id(weight.parameter))
            _check(weight, found)
            yield weight, found


class _Watch(TorchFunctionMode):
    """Sees every product with one of the weights while its block lasts."""

    def __init__(
        self, weights: Sequence[PrunableWeight], sums: Mapping[int, InputStatistics]
    ) -> None:
        super().__init__()
        self._weights = {id(w.parameter): w for w in weights}
        self._sums = sums

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if func in _PRODUCTS:
            kind, names, inputs_of = _PRODUCTS[func]
            named = dict(zip(names, args, strict=False)) | given
            weight = self._weights.get(id(named.get(names[_WEIGHT[kind]])))
            if weight is not None and weight.kind == kind:
                for x in inputs_of(weight, named):
                    self._sums[id(weight.parameter)].add(x)
        return func(*args, **given)


def _of_linear(weight: PrunableWeight, named: Mapping[str, Any]) -> Iterator[Tensor]:
    x = named["mat1" if weight.kind == "conv1d" else "input"]
    yield x.reshape(1, -1, x.shape[-1])


def _of_conv2d(weight: PrunableWeight, named: Mapping[str, Any]) -> Iterator[Tensor]:
    """Patches [groups, images · positions, in], a few images at a time."""
    x: Tensor = named["input"]
    settings: dict[str, Any] = {
        "kernel_size": tuple(weight.parameter.shape[2:]),
        "stride": named.get("stride", 1),
        "dilation": named.get("dilation", 1),
    }
    x = x if x.dim() == 4 else x[None]
    x = F.pad(x, _padding(named.get("padding", 0), settings))
    bytes_of_image = x[0].numel() * x.element_size() * weight.parameter[0, 0].numel()
    for part in x.split(max(1, _PATCH_BYTES // max(1, bytes_of_image))):
        patches = F.unfold(part, **settings)
        images, _, positions = patches.shape
        grouped = patches.view(images, weight.groups, weight.shape[1], positions)
        yield grouped.permute(1, 0, 3, 2).reshape(weight.groups, -1, weight.shape[1])


def _padding(padding: Any, settings: Mapping[str, Any]) -> list[int]:
    """What a convolution's padding adds: left, right, top, bottom."""
    if padding == "valid":
        return [0, 0, 0, 0]
    if padding == "same":
        dilation = settings["dilation"]
        dilations = (dilation, dilation) if isinstance(dilation, int) else tuple(dilation)
        spans = [d * (k - 1) for d, k in zip(dilations, settings["kernel_size"], strict=True)]
        high, wide = spans
        return [wide // 2, wide - wide // 2, high // 2, high - high // 2]
    sizes = (padding, padding) if isinstance(padding, int) else tuple(padding)
    return [sizes[-1], sizes[-1], sizes[0], sizes[0]]


_InputsOf = Callable[[PrunableWeight, Mapping[str, Any]], Iterator[Tensor]]
_PRODUCTS: dict[Any, tuple[str, tuple[str, ...], _InputsOf]] = {
    F.linear: ("linear", ("input", "weight", "bias"), _of_linear),
    torch.addmm: ("conv1d", ("input", "mat1", "mat2"), _of_linear),
    torch.conv2d: (
        "conv2d",
        ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
        _of_conv2d,
    ),
}
"""Product -> the kind of weight that goes in, its arguments in order, and what it multiplies."""
_WEIGHT = {"linear": 1, "conv1d": 2, "conv2d": 1}
"""Where the weight stands among the arguments."""


def _groups(
    weights: Sequence[PrunableWeight], memory_bytes: int | None
) -> Iterator[list[PrunableWeight]]:
    """Runs of weights whose Hessians fit the budget together; all of them without one."""
    group: list[PrunableWeight] = []
    held = 0
    for weight in weights:
        size = weight.groups * weight.shape[1] ** 2 * max(4, weight.parameter.element_size())
        if group and memory_bytes is not None and held + size > memory_bytes:
            yield group
            group, held = [], 0
        group.append(weight)
        held += size
    if group:
        yield group


def _check(weight: PrunableWeight, found: InputStatistics) -> None:
    if found.rows == 0:
        raise ModelError(
            f"No calibration batch reached the weight of {weight.path!r}, so what it is multiplied "
            "with is unknown. Give more batches, leave the weight out, or prune by magnitude, "
            "which needs no inputs."
        )
    if not bool(torch.isfinite(found.squares).all()):
        raise NonFiniteError(
            f"Inputs of {weight.path!r} are NaN or infinite on the calibration batches (Σ x² is "
            "not finite). Look for the first bad batch, or run the model in float32."
        )
