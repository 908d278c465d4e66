"""A model that is spread over processes: each holds some blocks and passes hidden states on.

Every process loads only its own blocks and captures the hook points in them; nothing but the hidden
states between two stages travels, point to point, over whatever process group there is: NCCL
between GPUs, gloo between CPUs. While a stage computes a batch, the next one is already received
and the one before is still being sent, so that all stages compute at once.

Flows in: batches of tokens, in every process. Flows out: per batch, the tensors at this process's
hook points. They are those of the whole model, bit for bit: the hidden states are not rounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bathyscope.errors import ModelError
from bathyscope.models.capture import Capture
from bathyscope.models.hook_points import HookPoint
from bathyscope.models.load import LoadedModel, load_model, read_config
from bathyscope.models.splice import spliced

_IN_FLIGHT = 4


def stage_blocks(sizes: Sequence[int], stages: int) -> list[tuple[int, int]]:
    """Blocks (first, one past the last) of each stage, near equal in size, in order.

    `sizes` are those of the blocks that are needed. Raises ModelError for more stages than blocks.
    """
    if not 0 < stages <= len(sizes):
        raise ModelError(
            f"{len(sizes)} blocks cannot be spread over {stages} stages: each needs one at least. "
            "Use fewer stages, or hook points in later blocks."
        )
    ends = [0, *accumulate(sizes)]
    cuts = [0]
    for stage in range(1, stages):
        goal = ends[-1] * stage / stages
        # Every stage behind it needs a block of its own.
        allowed = range(cuts[-1] + 1, len(sizes) - (stages - stage) + 1)
        cuts.append(min(allowed, key=lambda cut: abs(ends[cut] - goal)))
    cuts.append(len(sizes))
    return list(pairwise(cuts))


class PipelineStage:
    """One process's part of the model. Made in every process of the group, in the same order.

    `blocks` are its own; `points` all hook points of the run. Loading follows `load_model`, whose
    other arguments are `settings`.
    """

    def __init__(
        self,
        folder: str | Path,
        blocks: tuple[int, int],
        points: Sequence[HookPoint],
        *,
        dtype: torch.dtype,
        group: dist.ProcessGroup | None = None,
        **settings: Any,
    ) -> None:
        self.rank = dist.get_rank(group)
        self.is_last = self.rank == dist.get_world_size(group) - 1
        self._group = group
        self._width = int(read_config(folder).hidden_size)
        self.loaded: LoadedModel = load_model(
            folder, dtype=dtype, layers=blocks, head=False, **settings
        )
        self.points = [p for p in points if p.layer in range(*blocks)]
        self._entry = f"resid_pre.{blocks[0]}"
        self._exit = f"resid_post.{blocks[1] - 1}"
        self._hidden: Tensor | None = None

    def run(self, batches: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
        """For each batch of tokens [batch, positions], the tensors at this stage's hook points.

        Every process gets the same batches; only the first stage reads the tokens, the others
        their shape. Raises what `Capture` raises, and RuntimeError when a neighbour is gone.
        """
        names: list[HookPoint | str] = list(self.points)
        if not self.is_last and self._exit not in {p.name for p in self.points}:
            names.append(self._exit)
        wanted = {p.name for p in self.points}
        sent: deque[tuple[dist.Work | None, Tensor]] = deque()
        with ExitStack() as stack:
            model = self.loaded.model
            if self.rank:
                stack.enter_context(spliced(model, self._entry, self._received))
            capture = stack.enter_context(Capture(model, names))
            for hidden, tokens in self._arriving(batches):
                seen = capture(self._inputs(tokens, hidden))
                if not self.is_last:
                    self._send(seen[self._exit], sent)
                yield {name: seen[name] for name in wanted}
            for work, _ in sent:
                _wait(work)

    def _inputs(self, tokens: Tensor, hidden: Tensor | None) -> dict[str, Any]:
        self._hidden = hidden
        if hidden is None:
            return {"input_ids": tokens.to(self.loaded.input_device), "use_cache": False}
        return {"inputs_embeds": hidden, "use_cache": False}

    def _received(self, _: Tensor) -> Tensor:
        # Families add positions or scale embeddings before the first block: put it there unchanged.
        assert self._hidden is not None
        return self._hidden

    def _arriving(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor | None, Tensor]]:
        """Each batch with its hidden states; the next ones are received meanwhile."""
        if self.rank == 0:
            yield from ((None, tokens) for tokens in batches)
            return
        waiting: deque[tuple[dist.Work | None, Tensor, Tensor]] = deque()
        for tokens in batches:
            hidden = torch.empty(
                (*tokens.shape, self._width),
                dtype=self.loaded.dtype,
                device=self.loaded.input_device,
            )
            work = dist.irecv(hidden, group_src=self.rank - 1, group=self._group)
            waiting.append((work, hidden, tokens))
            if len(waiting) > _IN_FLIGHT:
                yield _arrived(waiting)
        while waiting:
            yield _arrived(waiting)

    def _send(self, hidden: Tensor, sent: deque[tuple[dist.Work | None, Tensor]]) -> None:
        hidden = hidden.contiguous()
        work = dist.isend(hidden, group_dst=self.rank + 1, group=self._group)
        # The tensor must live until it is sent.
        sent.append((work, hidden))
        if len(sent) > _IN_FLIGHT:
            _wait(sent.popleft()[0])


def _arrived(waiting: deque[tuple[dist.Work | None, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    work, hidden, tokens = waiting.popleft()
    _wait(work)
    return hidden, tokens


def _wait(work: dist.Work | None) -> None:
    assert work is not None, "this process belongs to the group"
    work.wait()
