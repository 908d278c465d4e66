"""Fine-tuning through the model: the loss sees what reconstructions do to its predictions.

    L = r · FVU + (1 - r) · α · D + sparsity,   D = mean over positions of KL(p_clean ‖ p_spliced)

or, with the loss `ce`, of the cross-entropy of the next token (Braun et al. 2024, "Identifying
Functionally Important Features with End-to-End Sparse Dictionary Learning", arXiv:2405.12241). A
short pass after ordinary training does most of what training so from the start does (Karvonen
2025, "Revisiting End-To-End Sparse Autoencoder Training", arXiv:2503.17272). α = FVU / KL of the
first batch before it is trained on. So the loss is as large as it was in ordinary training, and
weights of sparsity terms and learning rates mean what they meant there.

The model is frozen. Its half of the gradient, g = (1 - r) α ∂D/∂ŷ [rows, d], comes first, some
sequences at a time; then the dictionary gets the gradient of r · FVU + sparsity + Σ g · ŷ. That is
the gradient of L, and what the model and the dictionary need for theirs is never held together.
Positions that are left out of training stay as the model has them, and leave the averages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, nll_loss

from bathyscope.errors import ConfigError, NonFiniteError
from bathyscope.metrics.splice import next_tokens
from bathyscope.training.step import Step, StepFigures

KL, CE = "kl", "ce"
LOSSES = (KL, CE)
ACTIVATIONS = ("topk", "batch_topk", "jumprelu", "relu")
_SMALLEST_KL = 1e-6
LogitsOf = Callable[[Tensor, Tensor], Tensor]
"""tokens [b, p] and activations [b, p, d] put in place -> logits [b, p, vocabulary]."""


class Sequences(NamedTuple):
    """A batch: whole sequences, since the model reads them as such."""

    tokens: Tensor
    """int64 [b, p]."""
    activations: Tensor
    """[b, p, d], as the model has them."""
    keep: Tensor
    """bool [b, p]: the rows that are reconstructed."""


class FineTuned(NamedTuple):
    """What a step measured on its batch, before its update."""

    step: StepFigures
    model_loss: float
    """D in nats per position."""


class FineTuning:
    """Steps of a dictionary whose loss goes through a model.

    `step` holds the dictionary in the scale of its training; activations are `scale` times as
    large. Its `reconstruction_weight` is r. `forward_items` sequences go through the model at a
    time. Raises `ConfigError` for a dictionary or a loss that this cannot be done with.
    """

    def __init__(
        self, step: Step, logits_of: LogitsOf, *, loss: str, scale: float, forward_items: int
    ) -> None:
        dictionary = step.dictionary
        name = dictionary.parts[0].activation.name
        if dictionary.kind != "autoencoder" or name not in ACTIVATIONS:
            raise ConfigError(
                f"This is a {name} {dictionary.kind}. Fine-tuned through the model are "
                f"autoencoders of {', '.join(ACTIVATIONS)}."
            )
        if loss not in LOSSES:
            raise ConfigError(f"fine_tune.loss is {loss!r}. Choose one of {', '.join(LOSSES)}.")
        self.step_of = step
        self.model_weight = 0.0
        """(1 - r) α; `start` sets it."""
        self._logits_of = logits_of
        self._loss = loss
        self._scale = scale
        self._forward_items = forward_items

    def start(self, batch: Sequences, sparsity: float | None = None) -> None:
        """Set α by a batch, and the weight of the L1 penalty by what the penalty was at the end of
        training, if there is one. No weight changes.

        Raises `ConfigError` where reconstructions change no prediction.
        """
        x = self._rows(batch)
        terms = self.step_of.measure(x)
        kl = self._through_model(batch, self.step_of.reconstruct(x), KL)[0]
        if not kl > _SMALLEST_KL:
            raise ConfigError(
                f"The KL divergence of the spliced model is {kl:.2g} nats: reconstructions change "
                "nothing that could be fine-tuned."
            )
        share = 1 - self.step_of.settings.reconstruction_weight
        self.model_weight = share * terms.fvu / kl
        if sparsity and terms.sparsity:
            weights = self.step_of.sparsity
            weights.start_at(weights.l1_weight * sparsity / terms.sparsity)

    def step(self, batch: Sequences) -> FineTuned:
        """One step on whole sequences.

        Raises `NonFiniteError` for a loss that is not finite, before weights are touched.
        """
        x = self._rows(batch)
        value, gradient = self._through_model(batch, self.step_of.reconstruct(x), self._loss)
        if not torch.isfinite(torch.tensor(value)):
            raise NonFiniteError(
                f"The loss of the spliced model became {value}. Lower fine_tune.lr, or look for "
                "extreme rows in the activations."
            )
        figures = self.step_of.step(x, pull=self.model_weight * gradient)
        loss = figures.loss + self.model_weight * value
        return FineTuned(figures._replace(loss=loss), value)

    def _rows(self, batch: Sequences) -> Tensor:
        """The rows that are reconstructed [rows, d], in the scale of training."""
        dtype = self.step_of.dictionary.parts[0].W_enc.dtype
        return batch.activations[batch.keep].to(dtype) / self._scale

    def _through_model(self, batch: Sequences, y_hat: Tensor, loss: str) -> tuple[float, Tensor]:
        """D of reconstructions y_hat [rows, d], and its gradient there."""
        targets, counted = next_tokens(batch.tokens, batch.keep)
        num_counted = int(counted.sum())
        gradients: list[Tensor] = []
        total, first = 0.0, 0
        for start in range(0, len(batch.tokens), self._forward_items):
            part = slice(start, start + self._forward_items)
            one = Sequences(*(field[part] for field in batch))
            rows = int(one.keep.sum())
            leaf = y_hat[first : first + rows].detach().requires_grad_()
            first += rows
            with torch.enable_grad():
                value = self._loss_of(one, leaf, targets[part], counted[part], loss) / num_counted
            gradients += torch.autograd.grad(value, leaf)
            total += float(value.detach())
        return total, torch.cat(gradients)

    def _loss_of(
        self, batch: Sequences, y_hat: Tensor, targets: Tensor, counted: Tensor, loss: str
    ) -> Tensor:
        """The sum of D over the positions that count."""
        replaced = batch.activations.to(y_hat.dtype, copy=True)
        replaced[batch.keep] = y_hat * self._scale
        log_q = _log_probabilities(self._logits_of(batch.tokens, replaced)[counted])
        if loss == CE:
            return nll_loss(log_q, targets[counted], reduction="sum")
        with torch.no_grad():
            log_p = _log_probabilities(self._logits_of(batch.tokens, batch.activations)[counted])
        return kl_div(log_q, log_p, reduction="sum", log_target=True)


def _log_probabilities(logits: Tensor) -> Tensor:
    return log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))
