"""The ways in which something is taken from a model, each at rising shares, with its control.

Every method leaves the model as it found it. Flows in: one loaded model and what it is tried on.
Flows out: after each change, the share that is gone and the losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from bathyscope.models.capture import find_module
from bathyscope.models.hook_points import layer_numbers, resolve
from bathyscope.stages.studies.waste_trials import Losses, Trial
from bathyscope.studies.layer_distances import layer_distances
from bathyscope.studies.layers import drop_blocks
from bathyscope.studies.prunable import Prunable
from bathyscope.studies.prune_model import prune_model
from bathyscope.studies.pruning import count_of
from bathyscope.studies.quantising import Rounding, quantise
from bathyscope.studies.restoring import Snapshot

WEIGHTS, BLOCKS, BITS = "weights", "blocks", "bits"
STORED_BITS = 16
"""What shares of bits are of: checkpoints are published in 16 bits."""


class Method(NamedTuple):
    """A way to take something away."""

    name: str
    words: str
    kind: str
    """What is taken: `weights`, `blocks` or `bits`. Methods of one kind are no second opinion."""
    control: bool = False


METHODS = (
    Method("magnitude", "magnitude", WEIGHTS),
    Method("wanda", "Wanda", WEIGHTS),
    Method("sparsegpt", "SparseGPT", WEIGHTS),
    Method("random_weights", "removing random weights", WEIGHTS, control=True),
    Method("angular", "dropping blocks by angular distance", BLOCKS),
    Method("influence", "dropping blocks by Block Influence", BLOCKS),
    Method("random_blocks", "dropping random blocks", BLOCKS, control=True),
    Method("rounding", "rounding to nearest", BITS),
)
BY_NAME = {method.name: method for method in METHODS}


class Step(NamedTuple):
    """A model with a share of it gone."""

    share: float
    what: str
    """What was done, in words."""
    losses: Losses
    bits: int | None = None
    """That are left of each weight."""
    blocks: int | None = None
    """That are passed by."""


def pruned(
    model: nn.Module, found: Prunable, trial: Trial, name: str, shares: Sequence[float], seed: int
) -> Iterator[Step]:
    """The model without a share of each prunable weight, by one method."""
    kept = Snapshot(found.weights)
    for share in (0.0, *shares):
        with kept.changing():
            if name == "random_weights":
                prune_at_random(found, share, seed)
                order = "no inputs needed"
            else:
                order = prune_model(model, name, share, trial.calibration, found=found).order
            entries = sum(w.parameter.numel() for w in found.weights)
            gone = sum(int((w.parameter == 0).sum()) for w in found.weights) / entries
            yield Step(share, f"{gone:.3f} of the weights are 0; {order}", trial.losses())


def prune_at_random(found: Prunable, share: float, seed: int) -> None:
    """Set a share of each matrix to 0, drawn by the seed; a larger share holds a smaller one."""
    draw = torch.Generator().manual_seed(seed)
    for weight in found.weights:
        matrix = weight.read()
        order = torch.randperm(matrix.numel(), generator=draw)
        gone = order[: count_of(share, matrix.numel())].to(matrix.device)
        weight.write(matrix.flatten().index_fill(0, gone, 0).view_as(matrix))


def rounded(found: Prunable, trial: Trial, bits: Sequence[int]) -> Iterator[Step]:
    """The model with its prunable weights at fewer bits; steps and lows count as bits too.

    The caller has asked whether they lie on a coarse grid already.
    """
    kept = Snapshot(found.weights)
    yield Step(0.0, "as it was", trial.losses())
    for each in sorted(bits, reverse=True):
        with kept.changing():
            done = quantise(found.weights, Rounding(each), check_grid=False)
            share = 1 - done.bits_per_weight / STORED_BITS
            words = f"{each} bits, with steps {done.bits_per_weight:.2f}"
            yield Step(share, words, trial.losses(), bits=each)


def dropped(
    model: nn.Module, trial: Trial, chosen: Callable[[int], Sequence[int]]
) -> Iterator[Step]:
    """The model without 0, 1, … all of its blocks; `chosen` says which n are dropped."""
    blocks = layer_numbers(model)
    sizes = {number: _block_size(model, number) for number in blocks}
    for n in range(len(blocks) + 1):
        gone = [blocks[place] for place in chosen(n)] if n else []
        share = sum(sizes[number] for number in gone) / sum(sizes.values())
        with drop_blocks(model, gone):
            yield Step(share, f"without {_listed(gone)}", trial.losses(), blocks=n)


def block_choices(
    model: nn.Module, trial: Trial, seed: int
) -> dict[str, Callable[[int], Sequence[int]]]:
    """Which n blocks go, counted from 0, by each method; empty for a model of no family."""
    count = len(layer_numbers(model))
    if not count:
        return {}
    distances = layer_distances(model, trial.counted)
    by_influence = [int(i) for i in distances.block_influence().argsort(stable=True)]
    draw = torch.Generator().manual_seed(seed)
    at_random: list[int] = torch.randperm(count, generator=draw).tolist()

    def angular(n: int) -> Sequence[int]:
        start = distances.best_start(n)
        return range(start, start + n)

    return {
        "angular": angular,
        "influence": lambda n: sorted(by_influence[:n]),
        "random_blocks": lambda n: sorted(at_random[:n]),
    }


def _block_size(model: nn.Module, number: int) -> int:
    block = find_module(model, resolve(model, f"resid_pre.{number}"))
    return sum(p.numel() for p in block.parameters())


def _listed(numbers: Sequence[int]) -> str:
    return f"blocks {', '.join(map(str, numbers))}" if numbers else "none"
