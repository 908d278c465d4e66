"""A training that tests run in one process and, the same, in several."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.errors import JobError
from bathyscope.training.grid import Grid
from bathyscope.training.initial import initialise
from bathyscope.training.mesh import Single
from bathyscope.training.parallel import ParallelMesh
from bathyscope.training.shard import make_shard
from bathyscope.training.step import Step, StepSettings

ONE = columns_of([("x", 24)])
OTHER = columns_of([("y", 20)])
TWO = columns_of([("a", 12), ("b", 12)])
AFTER = columns_of([("c", 10), ("d", 10)])
COLUMNS = {
    "autoencoder": (ONE, ONE),
    "skip_transcoder": (ONE, OTHER),
    "crosscoder": (TWO, TWO),
    "cross_layer_transcoder": (TWO, AFTER),
}


@dataclass(frozen=True)
class Case:
    """What is trained."""

    kind: str = "autoencoder"
    activation: str = "topk"
    prefixes: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float64
    steps: int = 12
    rows: int = 64
    latents: int = 96
    k: int = 5
    clip_norm: float = 0.0
    dead_after: int = 100
    preact_weight: float = 0.0
    resample_steps: tuple[int, ...] = ()
    quantised: bool = False
    """Whether rows are in eighths, so that float32 sums of them are exact."""

    def make(self) -> AnyDictionary:
        """The dictionary, not yet set."""
        inputs, outputs = COLUMNS[self.kind]
        return make_dictionary(
            self.kind, inputs, outputs, activation=self.activation, k=self.k,
            num_latents=self.latents, dtype=self.dtype, prefixes=self.prefixes,
            options={"group_rows": 16},
        )  # fmt: skip

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """x and y of a step, all rows."""
        generator = torch.Generator().manual_seed(1000 + step)
        x = torch.randn(self.rows, 24, generator=generator, dtype=torch.float64)
        x = x * torch.linspace(2, 0.3, 24, dtype=torch.float64) + 0.5
        y = torch.randn(self.rows, 20, generator=generator, dtype=torch.float64) + x[:, :20]
        if self.quantised:
            x = (8 * x).round() / 8
        x, y = x.to(self.dtype), y.to(self.dtype)
        inputs, outputs = COLUMNS[self.kind]
        return (x, x) if inputs == outputs else (x, y)


@dataclass
class Outcome:
    """What a process saw."""

    figures: list[tuple[float, ...]] = field(default_factory=list)
    chosen: list[Tensor] = field(default_factory=list)
    """Per step, row * latents + latent of every entry here, in the numbers of the whole."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    bytes_sent: dict[str, int] = field(default_factory=dict)


class _Watched:
    """Notes which entries a step uses."""

    def __init__(
        self, step: Step, first_row: int, first_latents: Sequence[int], total: int
    ) -> None:
        self.seen: list[Tensor] = []
        gradients: Any = step._gradients
        forward = gradients._forward

        def noted(x: Tensor, centre: Tensor | None) -> Any:
            found = forward(x, centre)
            if torch.is_grad_enabled():
                places = []
                for active, first in zip(found.active, first_latents, strict=True):
                    counts = active.offsets.diff()
                    rows = torch.arange(len(counts)).repeat_interleave(counts) + first_row
                    places.append(rows * total + active.indices.long() + first)
                self.seen.append(torch.cat(places).sort().values)
            return found

        gradients._forward = noted


def run_case(case: Case, grid: Grid | None = None, rank: int = 0) -> Outcome:
    """Train, in this process alone or as one of the grid's."""
    single = grid is None
    grid = grid or Grid()
    mesh: Any = Single() if single else ParallelMesh(grid, seconds=60)
    dictionary = case.make() if single else make_shard(case.make, grid, rank)
    x, y = case.batch(0)
    initialise(dictionary, x=x, y=y, mean=y.mean(0), seed=3, mesh=mesh)
    settings = StepSettings(
        auxk_weight=0.1,
        dead_after_tokens=case.dead_after,
        clip_norm=case.clip_norm,
        preact_weight=case.preact_weight,
        resample_steps=case.resample_steps,
    )
    step = Step(dictionary, settings, lr=3e-3, mesh=mesh)
    each = case.rows // grid.data
    first_row = grid.data_place(rank) * each
    held = torch.tensor([part.num_latents for part in dictionary.parts])
    parts = torch.arange(len(held)) * held * grid.latents + mesh.first_latents(held)
    watched = _Watched(step, first_row, parts.tolist(), case.latents * len(held))
    outcome = Outcome()
    for number in range(case.steps):
        x, y = (part[first_row : first_row + each] for part in case.batch(number))
        figures = step.step(x, y)
        outcome.figures.append(tuple(figures))
    outcome.chosen = watched.seen
    outcome.tensors = {name: t.detach().clone() for name, t in dictionary.state_dict().items()}
    if not single:
        outcome.bytes_sent = dict(mesh.collectives.bytes_sent)
    return outcome


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_rank(rank: int, grids: list[tuple[Case, Grid]], port: int, folder: str) -> None:
    """One of the processes: every case in turn, what it saw in a file for each."""
    torch.set_num_threads(1)
    world = grids[0][1].world
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    for number, (case, grid) in enumerate(grids):
        torch.save(vars(run_case(case, grid, rank)), Path(folder) / f"{number}-{rank}.pt")
    dist.destroy_process_group()


def wait_in_vain(rank: int, port: int, folder: str) -> None:
    """Rank 0 exchanges something; rank 1 hangs. What rank 0 raised is written to a file."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = ParallelMesh(Grid(1, 2), seconds=2)
    if rank == 1:
        time.sleep(6)
        return
    try:
        mesh.sum_latents(torch.ones(1))
    except JobError as error:
        (Path(folder) / "said").write_text(str(error))
        # Gloo's thread still waits for rank 1. An orderly exit may end it in the middle, which
        # C++ answers with an abort on a busy machine.
        os._exit(0)
