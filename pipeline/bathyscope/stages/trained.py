"""What a training gave, and how it becomes the dictionary that is used."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from bathyscope.config import Config
from bathyscope.dictionaries.gated import Gated
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.dictionaries.relu import ReLU
from bathyscope.errors import NonFiniteError
from bathyscope.stages.hook_columns import AnyBatches, HookColumns, batches_of, new_dictionary
from bathyscope.stages.place import Place
from bathyscope.training.calibration import calibrate
from bathyscope.training.loop import Point, Scaled
from bathyscope.training.shard import join_shards, split_tensors


class Trained(NamedTuple):
    """What a training gave to one process."""

    dictionary: AnyDictionary
    """In the scale of the training; with the latents of this process."""
    curve: list[Point]
    scaled: Scaled
    batches: AnyBatches
    error: NonFiniteError | None = None
    """Why it ended early."""
    wants_k: bool = True
    """Whether L0 is to be k; not where the weight of the L1 penalty was set instead."""


def wants_k(config: Config, dictionary: AnyDictionary) -> bool:
    """Whether L0 is to be k: unless a weight was set of an L1 penalty that L0 follows from."""
    has_penalty = dictionary.parts[0].activation.name in (ReLU.name, Gated.name)
    return not (has_penalty and config.train.l1_weight > 0)


def joined(trained: Trained, config: Config, columns: HookColumns, place: Place) -> Trained:
    """The whole dictionary at rank 0, from the latents of all; elsewhere what was there."""
    grid, rank = place.seat.grid, place.seat.rank
    if grid.world == 1:
        return trained
    mine = tensors_of(trained.dictionary) if grid.data_place(rank) == 0 else None
    shards = place.seat.gather(mine)
    if rank != 0:
        return trained
    dictionary = new_dictionary(config, columns)
    split = split_tensors(dictionary)
    whole = join_shards([shard for shard in shards if shard is not None], split)
    dictionary.load_state_dict(whole)
    for part, own in zip(dictionary.parts, trained.dictionary.parts, strict=True):
        part.activation.load_training_state(own.activation.training_state())
    dictionary.to(trained.dictionary.parts[0].W_enc.device)
    return trained._replace(dictionary=dictionary, batches=batches_of(config, columns))


def finished(trained: Trained, order_seed: int) -> AnyDictionary:
    """The dictionary of a training by one process as it is used: calibrated, its scales folded.

    It is calibrated on the rows that no step saw; where none were set aside, on the first epoch's.
    """
    dictionary, scaled, batches = trained.dictionary, trained.scaled, trained.batches
    device = dictionary.parts[0].W_enc.device
    if trained.wants_k:
        rows = batches.aside() if batches.num_aside else batches.seen(order_seed)
        calibrate(dictionary, (scaled(block.to(device))[0] for block in rows))
    dictionary.fold_scales(scaled.inputs.to(device), scaled.outputs.to(device))
    return dictionary


def tensors_of(dictionary: AnyDictionary) -> dict[str, Tensor]:
    """The weights here, by name, to be joined with those of other processes."""
    return {name: tensor.detach().cpu() for name, tensor in dictionary.state_dict().items()}
