"""The ways in which something is taken from a model, each at rising shares, with its control.

Every method leaves the model as it found it. Flows in: one loaded model and what it is tried on.
Flows out: after each change, the share that is gone and the losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from bathyscope.models.capture import find_module
from bathyscope.models.hook_points import layer_numbers, resolve
from bathyscope.stages.studies.waste.trials import Losses, Trial
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


ORDERS = 4
"""Of random blocks, over which the control is averaged."""
Choice = Callable[[int], Sequence[tuple[int, ...]]]
"""From a number of blocks to the sets of blocks, by place, that may go."""

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


def dropped(model: nn.Module, trial: Trial, choice: Choice) -> Iterator[Step]:
    """The model without 0, 1, … all of its blocks; several choices of n blocks are averaged."""
    blocks = layer_numbers(model)
    sizes = {number: _block_size(model, number) for number in blocks}
    for n in range(len(blocks) + 1):
        found: list[Losses] = []
        shares: list[float] = []
        said: list[str] = []
        for places in dict.fromkeys(choice(n) if n else [()]):
            gone = [blocks[place] for place in places]
            with drop_blocks(model, gone):
                found.append(trial.losses())
            shares.append(sum(sizes[number] for number in gone) / sum(sizes.values()))
            said.append(", ".join(map(str, gone)) or "none")
        mean = Losses(found[0].counts, np.mean([each.sums for each in found], axis=0))
        yield Step(float(np.mean(shares)), f"without {' or '.join(said)}", mean, blocks=n)


def block_choices(model: nn.Module, trial: Trial, seed: int) -> dict[str, Choice]:
    """Which n blocks go, counted from 0, by each method; empty for a model of no family.

    Chance is an order drawn by the seed and its rotations: every block comes first equally often
    where there are at most `ORDERS`.
    """
    count = len(layer_numbers(model))
    if not count:
        return {}
    distances = layer_distances(model, trial.counted)
    by_influence = [int(i) for i in distances.block_influence().argsort(stable=True)]
    draw = torch.Generator().manual_seed(seed)
    order: list[int] = torch.randperm(count, generator=draw).tolist()
    starts = [count * i // ORDERS for i in range(ORDERS)] if count > ORDERS else range(count)

    def angular(n: int) -> list[tuple[int, ...]]:
        start = distances.best_start(n)
        return [tuple(range(start, start + n))]

    def at_random(n: int) -> list[tuple[int, ...]]:
        return [tuple(sorted((order + order)[start : start + n])) for start in starts]

    return {
        "angular": angular,
        "influence": lambda n: [tuple(sorted(by_influence[:n]))],
        "random_blocks": at_random,
    }


def _block_size(model: nn.Module, number: int) -> int:
    block = find_module(model, resolve(model, f"resid_pre.{number}"))
    return sum(p.numel() for p in block.parameters())
