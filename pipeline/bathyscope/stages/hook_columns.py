"""The hook points of a dictionary: their rows side by side, their widths and their scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary, check_columns, make_dictionary
from bathyscope.dictionaries.layout import Columns, columns_of
from bathyscope.errors import ConfigError
from bathyscope.runs.activations import Rows
from bathyscope.runs.run import Run
from bathyscope.stages.masks import kept
from bathyscope.stages.streamed import StreamedBatches, windows_of
from bathyscope.stores.batches import ShuffledBatches
from bathyscope.stores.streaming import most_unit_bytes
from bathyscope.values import TRAIN

AnyBatches = ShuffledBatches | StreamedBatches
"""What a training reads: a store that keeps everything, or one that holds a part at a time."""


@dataclass
class HookColumns:
    """What a dictionary reads, and beside it what it writes, where that is something else."""

    inputs: list[Rows]
    outputs: list[Rows]
    sample: range | None = None
    """The units that moments are taken of; all where it is None."""

    @property
    def all(self) -> list[Rows]:
        """Every hook point whose rows are read, in the order of the columns."""
        return self.inputs if self.writes_what_it_reads else [*self.inputs, *self.outputs]

    @property
    def writes_what_it_reads(self) -> bool:
        """Whether the hook points to write are those to read."""
        return [r.name for r in self.inputs] == [r.name for r in self.outputs]

    @property
    def firsts(self) -> list[int]:
        """The first column of each hook point."""
        widths = [rows.width for rows in self.all]
        return [sum(widths[:number]) for number in range(len(widths))]

    def scales_and_mean(self) -> tuple[Tensor, Tensor]:
        """The scale of each column [Σ d], and the mean of what is written, scaled [d_out].

        The scale is the root of the mean squared deviation of a hook point's training rows, one
        number for all of its columns.
        """
        scales, means = [], []
        for rows in self.all:
            sampled = rows if self.sample is None else rows.only(self.sample)
            moments = sampled.moments(TRAIN, kept)
            scale = moments.mean_squared_deviation**0.5
            scales.append(np.full(rows.width, scale))
            means.append(moments.mean / scale)
        d_out = sum(rows.width for rows in self.outputs)
        mean = np.concatenate(means)[-d_out:]
        return torch.from_numpy(np.concatenate(scales)), torch.from_numpy(mean)


def hook_columns(config: Config, run: Run) -> HookColumns:
    """The rows that `config.dictionary` reads and writes.

    Raises `ConfigError` for hook points that its kind cannot have, or whose rows do not match.
    """
    activations = run.growing if config.store.limit_bytes else run.activations
    found = HookColumns(
        [activations[name] for name in config.inputs],
        [activations[name] for name in config.outputs],
    )
    if config.store.limit_bytes:
        segment = found.inputs[0].segment
        found.sample = windows_of(config, segment, most_unit_bytes(segment))[0]
    check_columns(config.dictionary.kind, *_blocks(found))
    per_item = {rows.name: rows.per_item for rows in found.all}
    if len(set(per_item.values())) > 1:
        raise ConfigError(
            f"The hook points of the dictionary have different numbers of rows per item: "
            f"{per_item}. Wanted as many at each, so that rows stand side by side."
        )
    return found


def new_dictionary(config: Config, columns: HookColumns) -> AnyDictionary:
    """The dictionary of a configuration, its matrices not yet set, in float32.

    Raises `ConfigError` for sizes that cannot be.
    """
    return dictionary_of(config, *_blocks(columns))


def dictionary_of(config: Config, inputs: Columns, outputs: Columns) -> AnyDictionary:
    """The same from the widths of its hook points alone."""
    chosen = config.dictionary
    latents = num_latents(config, inputs[0].width)
    return make_dictionary(
        chosen.kind,
        inputs,
        outputs,
        activation=chosen.activation,
        k=chosen.k,
        num_latents=latents,
        options=vars(chosen),
        prefixes=_prefixes(chosen.prefixes, latents),
    )


def batches_of(
    config: Config, columns: HookColumns, *, rank: int = 0, world: int = 1
) -> AnyBatches:
    """The training rows of all hook points, side by side; the share of one rank of `world`."""
    first, *others = columns.all
    if config.store.limit_bytes:
        name = config.dictionary.name
        return StreamedBatches(config, columns.all, consumer=name, rank=rank, world=world)
    return first.batches(
        TRAIN,
        kept,
        batch_rows=config.train.batch_rows,
        streams=config.store.streams,
        window_chunks=config.store.window_chunks,
        memory_bytes=config.store.memory_bytes,
        beside=others,
        rank=rank,
        world=world,
        aside_rows=config.train.calibration_rows,
    )


def num_latents(config: Config, width: int) -> int:
    """The number of latents: as set, or expansion times the width of the first hook point."""
    return config.dictionary.num_latents or config.dictionary.expansion * width


def _blocks(columns: HookColumns) -> tuple[Columns, Columns]:
    return (
        columns_of([(rows.name, rows.width) for rows in columns.inputs]),
        columns_of([(rows.name, rows.width) for rows in columns.outputs]),
    )


def _prefixes(shares: list[float], latents: int) -> tuple[int, ...]:
    if any(not 0 < share <= 1 for share in shares):
        raise ConfigError(
            f"dictionary.prefixes are {list(shares)}. Shares above 0 and up to 1 are wanted."
        )
    return tuple(round(share * latents) for share in shares)
