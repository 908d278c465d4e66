"""Checkpoints of a training: what each process holds in a file of its own, one record last.

    checkpoints/<segment>/<step>/<place>-of-<places>.safetensors     what is split over latents
    checkpoints/<segment>/<step>/<place>-of-<places>.json            its size and digest
    checkpoints/<segment>/<step>/shared.safetensors                  what all processes have
    checkpoints/<segment>/<step>.json                                written last

A checkpoint without its record does not exist. The record has the digest of every file, and says
which latents lie where, so that another number of processes can read what it needs.

The training goes on while a copy of its state is written. Processes meet in the store alone, so
that nothing of this gets between the exchanges of their steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

import torch
import xxhash
from safetensors.torch import load, save
from torch import Tensor

from bathyscope.errors import StoreError
from bathyscope.stores.objects import Objects
from bathyscope.training.grid import Grid
from bathyscope.training.step import State
from bathyscope.values import Json

_KEPT = 2
_LOOK_S = 0.05


class Seat(NamedTuple):
    """Who writes: the grid, the rank in it, and how records of all ranks come to rank 0."""

    grid: Grid = Grid()
    rank: int = 0
    gather: Callable[[Any], list[Any]] = lambda record: [record]
    """Every rank's record at rank 0, anything elsewhere. Returns when all have come."""
    seconds: float = 600.0
    """How long rank 0 waits for the files of the others."""


class Found(NamedTuple):
    """A checkpoint as one process reads it."""

    step: int
    state: State
    facts: Json
    """What was given beside the state."""


class Checkpoints:
    """The checkpoints of one training in the folder of its dictionary.

    `split` names the tensors whose first axis is latents, with the number of their part; moments
    of Adam and counts of silence are split like the weight that they belong to.
    """

    def __init__(
        self, objects: Objects, segment: str, split: Mapping[str, int], seat: Seat | None = None
    ) -> None:
        self._objects = objects.at(f"checkpoints/{segment}")
        self._split = dict(split)
        self._seat = seat or Seat()
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except StoreError:
            # What ended the training says more than what came of its last checkpoint.
            if error is None:
                raise
        finally:
            self._writer.shutdown()

    def write(self, step: int, state: State, facts: Json) -> None:
        """Begin to write the state after so many steps; all but the last two are then removed.

        Returns when the state is copied, and the checkpoint before it is stored. Raises what went
        wrong with that one.
        """
        self.wait()
        seat = self._seat
        # Processes with other rows of the batch have the same weights.
        writes = seat.grid.data_place(seat.rank) == 0
        copied = {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in state.tensors.items()
            if writes and (seat.rank == 0 or self._is_split(name))
        }
        if writes:
            record = {"step": step, "state": state.facts, "facts": facts}
            self._writing = self._writer.submit(self._write, copied, record)

    def wait(self) -> None:
        """Return when what was begun is stored. Raises what went wrong."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def latest(self) -> Found | None:
        """The last checkpoint, as this process needs it; None when there is none.

        Raises `StoreError` for a file that is missing or has other bytes.
        """
        steps = self._steps()
        if not steps:
            return None
        record: Json = json.loads(self._objects.get(f"{steps[-1]:012d}.json"))
        tensors = self._read(record["shared"])
        tensors.update(self._my_share(record))
        return Found(steps[-1], State(tensors, record["state"]), record["facts"])

    def clear(self) -> None:
        """Remove what a process that died has left without a record; for the first rank alone."""
        for folder in self._objects.children(""):
            if int(folder) not in self._steps():
                self._objects.delete_folder(folder)
                self._objects.sweep(folder)

    def _write(self, tensors: Mapping[str, Tensor], record: Json) -> None:
        seat, folder = self._seat, f"{record['step']:012d}"
        place, places = seat.grid.latent_place(seat.rank), seat.grid.latents
        name = f"{folder}/{place}-of-{places}"
        mine = {n: t for n, t in tensors.items() if self._is_split(n)}
        written = self._put(f"{name}.safetensors", mine)
        self._objects.put(f"{name}.json", json.dumps(written).encode(), fsync=True)
        if seat.rank != 0:
            return
        rest = {n: t for n, t in tensors.items() if not self._is_split(n)}
        record["shared"] = self._put(f"{folder}/shared.safetensors", rest)
        record["places"] = places
        record["files"] = [self._written(f"{folder}/{p}-of-{places}.json") for p in range(places)]
        self._objects.put(f"{folder}.json", json.dumps(record).encode(), fsync=True)
        self._prune()

    def _written(self, key: str) -> Json:
        """What another process says of its file, when it has written it."""
        last = time.monotonic() + self._seat.seconds
        while not self._objects.exists(key):
            if time.monotonic() > last:
                raise StoreError(
                    f"{key} in {self._objects.location} was not written in {self._seat.seconds:g} "
                    "seconds, and the checkpoint is not whole. The process of that number hangs, "
                    "or its disk is slow: see train.timeout_s."
                )
            time.sleep(_LOOK_S)
        record: Json = json.loads(self._objects.get(key))
        return record

    def _my_share(self, record: Json) -> dict[str, Tensor]:
        """What is split, for the latents of this process, from the files that hold them."""
        grid, rank = self._seat.grid, self._seat.rank
        there, place, places = record["places"], grid.latent_place(rank), grid.latents
        if there == places:
            return self._read(record["files"][place])
        # Shares are equal: of 1/there and 1/places, those that overlap.
        first, last = place * there // places, -(-(place + 1) * there // places)
        parts = [self._read(record["files"][number]) for number in range(first, last)]
        found = {}
        for name in parts[0]:
            joined = torch.cat([part[name] for part in parts])
            each = len(parts[0][name]) * there // places
            begin = place * each - first * len(parts[0][name])
            found[name] = joined[begin : begin + each].clone()
        return found

    def _is_split(self, name: str) -> bool:
        return name.startswith("silent/") or name.split("/", 1)[-1] in self._split

    def _put(self, key: str, tensors: Mapping[str, Tensor]) -> Json:
        data = save({name: t.contiguous() for name, t in tensors.items()})
        self._objects.put(key, data, fsync=True)
        return {"key": key, "bytes": len(data), "digest": xxhash.xxh3_128_hexdigest(data)}

    def _read(self, record: Json) -> dict[str, Tensor]:
        data = self._objects.get(record["key"])
        if xxhash.xxh3_128_hexdigest(data) != record["digest"]:
            raise StoreError(
                f"{record['key']} in {self._objects.location} is damaged: it has {len(data)} bytes "
                f"with another digest than its record's {record['bytes']} bytes. Remove that "
                "step's .json to go on from the checkpoint before it."
            )
        tensors: dict[str, Tensor] = load(data)
        return tensors

    def _steps(self) -> list[int]:
        names = self._objects.files("")
        return sorted(int(n.removesuffix(".json")) for n in names if n.endswith(".json"))

    def _prune(self) -> None:
        for step in self._steps()[:-_KEPT]:
            self._remove(step)

    def _remove(self, step: int) -> None:
        # The record first: a checkpoint that is half gone must not be read.
        self._objects.delete(f"{step:012d}.json")
        self._objects.delete_folder(f"{step:012d}")
        self._objects.sweep(f"{step:012d}")
