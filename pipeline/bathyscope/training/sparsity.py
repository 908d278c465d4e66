"""How activation functions that do not fix L0 are brought to the L0 that is wanted.

JumpReLU has (Rajamanoharan et al. 2024, arXiv:2407.14435, appendix)

    weight · (L0 / k - 1)²

whose gradient reaches its thresholds. ReLU and Gated have an L1 penalty

    λ · mean over rows of Σ z ‖W_dec row‖ / (root of the mean squared norm of y)

(of Gated: the gate instead of z). λ is a setting, or follows L0. With e = clip(log(L0 / k), -1, 1)
of each step, log λ = 0.03 Σ e + 0.5 e: the sum finds the λ where L0 = k and stays there, the last
term keeps it from swinging around it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bathyscope.dictionaries.activation_function import Active
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.values import Json

_START = 0.1
_INTEGRAL, _PROPORTIONAL = 0.03, 0.5


class Sparsity:
    """The sparsity term of one training. `l1_weight` 0 lets λ follow L0.

    With `unit_rows` decoder rows have norm 1, and their norms are left out.
    """

    def __init__(
        self, dictionary: AnyDictionary, *, l0_weight: float, l1_weight: float, unit_rows: bool
    ) -> None:
        self._dictionary = dictionary
        self._unit_rows = unit_rows
        name = dictionary.parts[0].activation.name
        self._trains_l0 = name == "jumprelu"
        self._has_penalty = name in ("relu", "gated")
        self._l0_weight = l0_weight
        self._is_fixed = l1_weight > 0
        self.l1_weight = l1_weight if self._is_fixed else _START
        self._sum = 0.0

    @property
    def needs_l0(self) -> bool:
        """Whether L0 of the batch must be known before its gradient."""
        return self._trains_l0

    def value(self, l0: float, penalty: float) -> float:
        """The term of a batch, from its mean L0 and mean penalty."""
        if self._trains_l0:
            return self._l0_weight * (l0 / self._dictionary.k - 1) ** 2
        return self.l1_weight * penalty if self._has_penalty else 0.0

    def surrogate(self, active: tuple[Active, ...], l0: float, penalty: Tensor | None) -> Tensor:
        """Something with the gradient of the term, as a sum over rows; divide by all rows.

        `l0` is that of the batch, `penalty` of these rows.
        """
        zero = active[0].values.new_zeros(())
        if self._trains_l0:
            k = self._dictionary.k
            slope = 2 * self._l0_weight * (l0 / k - 1) / k
            return zero + slope * sum(a.l0 for a in active)
        return zero if penalty is None else self.l1_weight * penalty

    def penalty(self, active: tuple[Active, ...], norm: float) -> Tensor | None:
        """Σ over rows and latents of z ‖W_dec row‖ / norm; None for kinds that have none."""
        if not self._has_penalty:
            return None
        total = None
        for part, a in zip(self._dictionary.parts, active, strict=True):
            z = a.values if a.gate is None else a.gate
            if not self._unit_rows:
                norms = torch.linalg.vector_norm(part.W_dec, dim=1)
                # The gate has no say over the decoder.
                norms = norms if a.gate is None else norms.detach()
                z = z * norms[a.indices.long()]
            found = z.sum() / norm
            total = found if total is None else total + found
        return total

    def after(self, l0: float) -> None:
        """Let λ follow the L0 of a batch."""
        if self._has_penalty and not self._is_fixed and l0 > 0:
            error = max(-1.0, min(1.0, math.log(l0 / self._dictionary.k)))
            self._sum += error
            self.l1_weight = _START * math.exp(_INTEGRAL * self._sum + _PROPORTIONAL * error)

    def start_at(self, l1_weight: float) -> None:
        """Let a λ that follows L0 start at this one, where a training before has ended."""
        if self._has_penalty and not self._is_fixed and l1_weight > 0:
            self.l1_weight = l1_weight
            self._sum = math.log(l1_weight / _START) / _INTEGRAL

    def state(self) -> Json:
        """What a checkpoint needs."""
        return {"l1_weight": self.l1_weight, "sum": self._sum}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.l1_weight, self._sum = float(state["l1_weight"]), float(state["sum"])
