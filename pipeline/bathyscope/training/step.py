"""One training step of a TopK dictionary: loss, gradients, Adam, unit decoder rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.dictionaries.topk import TopK
from bathyscope.errors import ConfigError, NonFiniteError
from bathyscope.training.losses import autoencode, auxk, fired, fvu
from bathyscope_kernels import RowSparseAdam


class StepFigures(NamedTuple):
    """What a step measured on its batch, before its update."""

    loss: float
    fvu: float
    auxk: float
    l0: float
    dead_share: float
    lr: float


class TopKStep:
    """Holds the optimiser and the counts of silent tokens; `step(x)` does one step.

    A latent is dead when it has not fired for `dead_after_tokens` training tokens.
    Raises `ConfigError` when that is below 1: every latent would be dead from the start.
    """

    def __init__(
        self, dictionary: TopK, *, lr: float, auxk_weight: float, dead_after_tokens: int
    ) -> None:
        if dead_after_tokens < 1:
            raise ConfigError(
                f"A latent would be dead after {dead_after_tokens} silent tokens; at least 1 is "
                "wanted. Raise train.dead_after_epochs."
            )
        self.dictionary = dictionary
        self._auxk_weight = auxk_weight
        self._dead_after_tokens = dead_after_tokens
        # The decoder's rows are set to unit norm in the pass that updates them.
        others = [dictionary.W_enc, dictionary.b_enc, dictionary.b_dec]
        groups = [{"params": [dictionary.W_dec], "unit_rows": True}, {"params": others}]
        self._optimizer = RowSparseAdam(groups, lr=lr)
        device = dictionary.W_enc.device
        self.silent_tokens = torch.zeros(dictionary.num_latents, dtype=torch.int64, device=device)

    def set_lr(self, lr: float) -> None:
        """The learning rate from the next step on."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    @property
    def dead(self) -> Tensor:
        """Numbers of the latents that count as dead now, sorted, int64."""
        return torch.nonzero(self.silent_tokens >= self._dead_after_tokens).flatten()

    def step(self, x: Tensor) -> StepFigures:
        """Train on rows x [rows, d_in], float32.

        Raises `NonFiniteError` when the loss is NaN or infinite, before weights are touched.
        """
        x = x.to(self.silent_tokens.device)
        dead = self.dead if self._auxk_weight else self.silent_tokens.new_empty(0)
        x_hat, latents, error_hat = autoencode(self.dictionary, x, dead)
        unexplained = fvu(x, x_hat)
        aux = auxk(x, x_hat, error_hat)
        loss = unexplained + self._auxk_weight * aux
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"The training loss became {loss.item()} (FVU {unexplained.item()}, AuxK "
                f"{aux.item()}). Lower train.lr, or look for extreme rows in the activations."
            )
        loss.backward()
        self._update()
        self._count_silence(latents.indices, fired(latents, self.dictionary.num_latents))
        return StepFigures(
            loss=loss.item(),
            fvu=unexplained.item(),
            auxk=aux.item(),
            l0=latents.count.float().mean().item(),
            dead_share=len(self.dead) / self.dictionary.num_latents,
            lr=self._optimizer.param_groups[0]["lr"],
        )

    def _update(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _count_silence(self, indices: Tensor, active: Tensor) -> None:
        self.silent_tokens += len(indices)
        self.silent_tokens[active] = 0
