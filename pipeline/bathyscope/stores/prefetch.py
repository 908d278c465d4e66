"""Batches read ahead in the background, and put where a GPU can fetch them.

Imports torch only, so that training runs where no store is installed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor


class Batches(Protocol):
    """Shuffled rows by (seed, epoch, step)."""

    def batch(self, seed: int, epoch: int, step: int) -> Tensor:
        """Rows [batch_rows, d]."""
        ...


def prefetch(
    batches: Batches,
    seed: int,
    steps: Iterable[tuple[int, int]],
    *,
    depth: int = 2,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """The batches of (epoch, step) in order, on a device; up to `depth` are read ahead.

    One thread reads, so the store sees the order of the steps. For a CUDA device rows are pinned
    by that thread and copied without waiting. An error of a read is raised where its batch would
    have come; nothing more is read when the caller stops. With a depth of 0 the caller reads.
    """
    assert depth >= 0, depth
    target = torch.device(device)
    pin = target.type == "cuda"
    if depth == 0:
        for epoch, step in steps:
            yield batches.batch(seed, epoch, step).to(target)
        return

    def read(epoch: int, step: int) -> Tensor:
        rows = batches.batch(seed, epoch, step)
        return rows.pin_memory() if pin else rows

    ahead: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as reader:
        try:
            for epoch, step in steps:
                ahead.append(reader.submit(read, epoch, step))
                if len(ahead) > depth:
                    yield ahead.popleft().result().to(target, non_blocking=pin)
            while ahead:
                yield ahead.popleft().result().to(target, non_blocking=pin)
        finally:
            for waiting in ahead:
                waiting.cancel()
