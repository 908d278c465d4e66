"""Pruning of a whole model, in place, by one method at one share.

Wanda and SparseGPT need inputs. Where the blocks are known they are pruned in order, and later
blocks are shown what the pruned ones give, as both papers do. In other models the inputs are those
of the model as it was, for all weights at once. The record says which.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bathyscope.errors import ConfigError, ModelError, NonFiniteError
from bathyscope.models.capture import Inputs, run_forward
from bathyscope.models.hook_points import layer_numbers
from bathyscope.studies.block_inputs import BlockInputs, without_cache
from bathyscope.studies.calibration import MEMORY_BYTES, InputStatistics, gathered
from bathyscope.studies.prunable import Prunable, PrunableWeight, prunable
from bathyscope.studies.pruning import (
    METHODS,
    count_of,
    magnitude,
    magnitude_global,
    sparsegpt,
    wanda,
)

BLOCK_BY_BLOCK = "block by block, inputs from the pruned blocks before"
AT_ONCE = "all at once, inputs from the model as it was"
NO_INPUTS = "no inputs needed"
MODEL_METHODS = (*METHODS, "magnitude_global")
_NEED_INPUTS = ("wanda", "sparsegpt")


@dataclass(frozen=True)
class Pruned:
    """What was done to a model."""

    method: str
    share: float
    order: str
    """`BLOCK_BY_BLOCK`, `AT_ONCE` or `NO_INPUTS`."""
    matrices: int
    zeros: int
    """Entries of prunable weights that are 0 now."""
    entries: int
    """Of all prunable weights."""


def prune_model(
    model: nn.Module,
    method: str,
    share: float,
    batches: Sequence[Inputs] = (),
    *,
    found: Prunable | None = None,
    heads: Collection[str] = (),
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Pruned:
    """Remove a share of every prunable weight of a model in evaluation mode.

    `batches` are run several times, so they are a sequence, without padding: every position
    counts. `found` is what `prunable` gave, where it is known; else `heads` go to it.
    `memory_bytes` bounds the Hessians held at once and changes no result. `progress` is told the
    matrices done and their number.

    Raises ConfigError for an unknown method, a share outside [0, 1] and missing batches, before
    anything is changed. After an error in a forward earlier blocks are pruned already: call it
    inside `Snapshot.changing`.
    """
    _check(model, method, share, batches)
    weights = (found or prunable(model, heads=heads)).weights
    _check_finite(weights)
    tell = progress or (lambda done, total: None)
    order = NO_INPUTS
    if method in _NEED_INPUTS and share > 0:
        change = _Change(method, share, memory_bytes, len(weights), tell)
        blocks = layer_numbers(model)
        order = BLOCK_BY_BLOCK if blocks else AT_ONCE
        if blocks:
            _block_by_block(model, blocks, weights, batches, change)
        outside = [w for w in weights if w.block is None]
        change.apply(outside, partial(_run_all, model, batches))
    elif method == "magnitude_global":
        for weight, kept in zip(weights, magnitude_global(weights, share), strict=True):
            weight.write(weight.read().masked_fill(~kept, 0))
    else:
        for done, weight in enumerate(weights):
            weight.write(magnitude(weight.read(), share))
            tell(done + 1, len(weights))
    zeros = sum(int((w.parameter == 0).sum()) for w in weights)
    entries = sum(w.parameter.numel() for w in weights)
    return Pruned(method, share, order, len(weights), zeros, entries)


class _Change:
    """One method at one share, applied to groups of weights that share their inputs' model."""

    def __init__(
        self,
        method: str,
        share: float,
        memory_bytes: int,
        total: int,
        tell: Callable[[int, int], None],
    ) -> None:
        self._method = method
        self._share = share
        self._memory_bytes = memory_bytes
        self._total = total
        self._tell = tell
        self._done = 0

    def apply(self, weights: Sequence[PrunableWeight], forwards: Callable[[], None]) -> None:
        """Prune weights whose inputs `forwards` gives; they change only when all are known."""
        changed: list[tuple[PrunableWeight, Tensor]] = []
        for weight, statistics in gathered(
            weights,
            forwards,
            hessian=self._method == "sparsegpt",
            memory_bytes=self._memory_bytes,
        ):
            changed.append((weight, self._pruned(weight.read(), statistics).to("cpu")))
            self._done += 1
            self._tell(self._done, self._total)
        for weight, matrix in changed:
            weight.write(matrix)

    def _pruned(self, matrix: Tensor, statistics: InputStatistics) -> Tensor:
        if self._method == "wanda":
            return wanda(matrix, statistics, self._share)
        return sparsegpt(matrix, statistics, self._share)


def _block_by_block(
    model: nn.Module,
    blocks: Sequence[int],
    weights: Sequence[PrunableWeight],
    batches: Sequence[Inputs],
    change: _Change,
) -> None:
    inputs = BlockInputs(model, batches)
    for index, number in enumerate(blocks):
        inside = [w for w in weights if w.block == number]
        change.apply(inside, partial(inputs.run, index))
        if index + 1 < len(blocks):
            inputs.advance(index)


@torch.no_grad()
def _run_all(model: nn.Module, batches: Sequence[Inputs]) -> None:
    for batch in batches:
        run_forward(model, without_cache(batch))


def _check(model: nn.Module, method: str, share: float, batches: Sequence[Inputs]) -> None:
    if method not in MODEL_METHODS:
        raise ConfigError(f"No pruning method {method!r}; wanted {', '.join(MODEL_METHODS)}.")
    count_of(share, 1)
    if method in _NEED_INPUTS and not isinstance(batches, Sequence):
        raise ConfigError(
            f"The calibration batches are a {type(batches).__name__}, which can be read only once; "
            "wanted a list, because they run several times."
        )
    if method in _NEED_INPUTS and not batches:
        raise ConfigError(f"{method} needs calibration batches and got none.")
    if model.training:
        raise ModelError(
            f"{type(model).__name__} is in training mode, where dropout and running averages "
            "change what calibration sees. Call model.eval() first."
        )


def _check_finite(weights: Sequence[PrunableWeight]) -> None:
    for weight in weights:
        if not bool(torch.isfinite(weight.parameter).all()):
            raise NonFiniteError(
                f"The weight of {weight.path!r} holds NaN or infinity, so its entries have no "
                "order. Is the checkpoint whole?"
            )
