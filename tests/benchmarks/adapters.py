"""Hands the trainer's own training step to scripts that time several implementations."""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import topk_autoencoder
from bathyscope.training.step import Step, StepSettings

AUXK_WEIGHT = 1 / 32


class TopKAdapter:
    """`Step` of a TopK autoencoder behind `step(x) -> loss` and `weights()`."""

    def __init__(self, weights: dict[str, Tensor], k: int, lr: float, dead: Tensor | None) -> None:
        num_latents, d_in = weights["W_enc"].shape
        dictionary = topk_autoencoder(d_in=d_in, num_latents=num_latents, k=k, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in dictionary.named_parameters():
                parameter.copy_(weights[name])
        auxk_weight = 0.0 if dead is None else AUXK_WEIGHT
        settings = StepSettings(auxk_weight=auxk_weight, dead_after_tokens=2**40)
        self._step = Step(dictionary, settings, lr=lr)
        self._dead = dead

    def step(self, x: Tensor) -> float:
        """One training step on rows [rows, d]."""
        if self._dead is not None:
            # The dead latents are given and stay: as if they had been silent for long.
            self._step.silent_tokens[0][:] = self._dead.long() * 2**40
        return self._step.step(x).loss

    def weights(self) -> dict[str, Tensor]:
        """The weights as they are now."""
        return {n: p.detach() for n, p in self._step.dictionary.named_parameters()}


def topk_step(
    weights: dict[str, Tensor], k: int, lr: float, dead: Tensor | None = None
) -> TopKAdapter:
    """A TopK training step that starts from `weights`; `dead` is a bool mask for AuxK."""
    return TopKAdapter(weights, k, lr, dead)
