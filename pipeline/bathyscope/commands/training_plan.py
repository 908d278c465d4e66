"""What the training of a run will take of memory, from the configuration alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bathyscope.commands.capacity import gpus_of
from bathyscope.config import Config
from bathyscope.dictionaries.layout import Columns, columns_of
from bathyscope.errors import ConfigError
from bathyscope.stages.hook_columns import dictionary_of
from bathyscope.stages.inputs import is_of_images
from bathyscope.stages.memory import free_host_bytes, planned, processes_here
from bathyscope.stores.batches import held_bytes
from bathyscope.stores.order import choose_streams
from bathyscope.training.footprint import (
    Footprint,
    check_memory,
    described,
    size,
    together,
)
from bathyscope.training.grid import grid_of

_STORED_BYTES = 2


def training_footprint(config: Config, widths: Mapping[str, int]) -> Footprint:
    """The footprint of the configured dictionary on hook points of these widths.

    Raises `ConfigError` for a dictionary or a grid that cannot be.
    """
    inputs, outputs = _columns(config.inputs, widths), _columns(config.outputs, widths)
    with torch.device("meta"):
        dictionary = dictionary_of(config, inputs, outputs)
    grid = grid_of(config.train.processes, config.train.latent_parallel)
    read = {*config.inputs, *config.outputs}
    held = _reader_bytes(config, sum(widths[name] for name in read), grid.data)
    return planned(config, dictionary, grid, reader_bytes=held)


def training_lines(config: Config, *trainings: Footprint) -> list[str]:
    """Those of one pass for a person, and what to do where there is no room for them."""
    count, found = config.train.processes, together(trainings)
    where = "" if count == 1 else f" on each of {count} processes"
    told = [f"training   {size(found.total)} of memory{where}: {described(found)}"]
    problem = training_refusal(config, *trainings)
    return told if problem is None else [*told, f"SHORT      {problem}"]


def training_refusal(config: Config, *trainings: Footprint) -> str | None:
    """Why those of one pass do not fit the stated hardware, or this machine; None where they do.

    Nothing is said of the machines of a cluster that nothing is known of.
    """
    gpus = gpus_of(config.hardware)
    # Of stated hardware the hosts' memory is not known.
    is_here = config.hardware.gpus_per_node is None and config.cluster.kind != "address"
    host = free_host_bytes() // processes_here(config, config.train.processes)
    try:
        if gpus is not None:
            host = host if is_here else together(trainings).total
            check_memory(trainings, int(gpus.num_bytes - gpus.reserved_bytes), host_available=host)
        elif is_here:
            check_memory(trainings, host)
    except ConfigError as error:
        return str(error)
    return None


def _columns(names: list[str], widths: Mapping[str, int]) -> Columns:
    return columns_of([(name, widths[name]) for name in names])


def _reader_bytes(config: Config, width: int, data: int) -> int:
    """What the reader of each process keeps; of a corpus without a stated size all windows."""
    store, batch_rows = config.store, config.train.batch_rows
    row_bytes = _STORED_BYTES * width
    chunk_rows = max(store.chunk_bytes // row_bytes, 1)
    rows = 0 if is_of_images(config) else config.data.train_tokens
    streams = store.streams
    if rows:
        streams = choose_streams(-(-rows // chunk_rows), wanted=streams, batch_rows=batch_rows)
    streams = max(streams // data, 1)
    held = held_bytes(
        rows or streams * store.window_chunks * chunk_rows,
        row_bytes=row_bytes,
        chunk_rows=chunk_rows,
        streams=streams,
        window_chunks=store.window_chunks,
        in_memory=0 < rows * row_bytes <= store.memory_bytes,
    )
    return held + 2 * (batch_rows // data) * row_bytes
