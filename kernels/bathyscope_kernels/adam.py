"""Adam for weights whose gradients are zero but for some rows.

The step is that of `torch.optim.Adam` with dense gradients (Kingma and Ba 2015, arXiv:1412.6980):
rows without a gradient still move by their momentum. Only the gradient is never made dense.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels.cpu import library as cpu
from bathyscope_kernels.cpu import sparse as cpu_sparse
from bathyscope_kernels.dispatch import on_gpu
from bathyscope_kernels.workspace import WORKSPACE_BYTES, blocks


class RowSparseAdam(torch.optim.Optimizer):
    """Adam over dense parameters with dense or row-sparse gradients.

    A row-sparse gradient is a hybrid `torch.sparse_coo` tensor with one sparse dimension, as
    `topk_autoencode` gives it. Options of a group, beside lr, betas and eps:

    - `lazy`: rows without a gradient are left alone, moments and all. Quicker, and another
      optimiser: a row's moments then decay per gradient instead of per step.
    - `unit_rows`: each row is set to unit norm after its update, in the same pass; rows of zeros
      are left alone.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        lazy: bool = False,
        unit_rows: bool = False,
    ) -> None:
        if not (lr >= 0 and eps >= 0 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(
                f"got lr {lr}, betas {betas}, eps {eps}; wanted lr >= 0, eps >= 0 and betas from "
                "0 to below 1"
            )
        defaults = {"lr": lr, "betas": betas, "eps": eps, "lazy": lazy, "unit_rows": unit_rows}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        rows = None
        if grad.is_sparse:
            rows, grad = _rows(grad)
        row_sparse_adam(
            parameter,
            state["exp_avg"],
            state["exp_avg_sq"],
            rows,
            grad,
            step=int(state["step"]),
            **{name: group[name] for name in ("lr", "betas", "eps", "lazy", "unit_rows")},
        )


def _rows(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending row numbers and their gradients."""
    # Autograd forgets that a gradient is coalesced, and coalescing again copies it.
    rows = grad._indices()[0]
    if bool((rows[1:] > rows[:-1]).all()):
        return rows, grad._values()
    grad = grad.coalesce()
    return grad.indices()[0], grad.values()


@torch.no_grad()
def row_sparse_adam(
    parameter: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor | None,
    grad: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    lazy: bool = False,
    unit_rows: bool = False,
) -> None:
    """One Adam step in place: p -= lr m^ / (sqrt(v^) + eps) with bias-corrected moments.

    parameter, exp_avg and exp_avg_sq have one shape; `grad` holds the gradients of `rows` (int64,
    ascending, none twice) of it, or of all rows where `rows` is None. `step` counts from 1.
    `lazy` and `unit_rows` are as in `RowSparseAdam`.
    """
    betas = (float(betas[0]), float(betas[1]))
    _adam(parameter, exp_avg, exp_avg_sq, rows, grad, step, lr, *betas, eps, lazy, unit_rows)


@torch.library.custom_op(
    "bathyscope::row_sparse_adam", mutates_args=("parameter", "exp_avg", "exp_avg_sq")
)
def _adam(
    parameter: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor | None,
    grad: Tensor,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    lazy: bool,
    unit_rows: bool,
) -> None:
    is_plain = parameter.dtype == torch.float32 and parameter.is_contiguous()
    if parameter.ndim == 2 and is_plain and on_gpu(parameter, exp_avg, exp_avg_sq, grad):
        from bathyscope_kernels.gpu.adam import sparse_adam

        listed = torch.arange(grad.shape[0], device=grad.device) if rows is None else rows
        sparse_adam(
            parameter, exp_avg, exp_avg_sq, listed, grad,
            lr=lr, beta1=beta1, beta2=beta2, eps=eps, step=step, lazy=lazy,
            normalize=unit_rows,
        )  # fmt: skip
        return
    step_size = lr / (1 - beta1**step)
    correction = math.sqrt(1 - beta2**step)
    matrix = [_as_matrix(t) for t in (parameter, exp_avg, exp_avg_sq)]
    grad = _as_matrix(grad).contiguous()
    if parameter.ndim == 2 and cpu_sparse.usable(*matrix, grad):
        listed = torch.arange(grad.shape[0]) if rows is None else rows.contiguous()
        cpu.call(
            "adam", *matrix, *parameter.shape, listed, grad, listed.numel(), 1.0 - beta1,
            beta2, 1.0 - beta2, step_size, eps, correction, lazy, unit_rows,
            cpu.threads(),
        )  # fmt: skip
        return
    for part, part_grad in _parts(matrix[0], rows, grad, lazy):
        p, m, v = (t[part] for t in matrix)
        m.lerp_(part_grad, 1 - beta1)
        v.mul_(beta2).addcmul_(part_grad, part_grad, value=1 - beta2)
        p.addcdiv_(m, (v.sqrt() / correction).add_(eps), value=-step_size)
        if unit_rows:
            norms = torch.linalg.vector_norm(p, dim=1, keepdim=True)
            p.div_(norms.masked_fill(norms <= torch.finfo(p.dtype).tiny, 1))
        if isinstance(part, Tensor):
            for whole, changed in zip(matrix, (p, m, v), strict=True):
                whole[part] = changed


@_adam.register_fake
def _(*arguments: Any) -> None:
    return None


def _as_matrix(tensor: Tensor) -> Tensor:
    """A view with two dimensions, never a copy: it is written to."""
    return tensor if tensor.ndim == 2 else tensor.view(tensor.shape[0] if tensor.ndim else 1, -1)


def _parts(
    matrix: Tensor, rows: Tensor | None, grad: Tensor, lazy: bool
) -> Iterable[tuple[slice | Tensor, Tensor]]:
    """Rows and their dense gradients, a bounded number at a time."""
    size = max(1, WORKSPACE_BYTES // max(1, 4 * matrix.shape[1] * matrix.element_size()))
    if rows is None:
        for part in blocks(matrix.shape[0], size):
            yield part, grad[part]
    elif lazy:
        for part in blocks(rows.numel(), size):
            yield rows[part], grad[part]
    else:
        for part in blocks(matrix.shape[0], size):
            ends = torch.tensor([part.start, part.stop], device=rows.device)
            first, last = torch.searchsorted(rows, ends).tolist()
            dense = grad.new_zeros(part.stop - part.start, matrix.shape[1])
            dense[rows[first:last] - part.start] = grad[first:last]
            yield part, dense
