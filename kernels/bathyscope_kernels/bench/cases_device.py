"""What the device itself does: its matmuls, torch.topk, a sort of indices, gathers.

Nothing here is ours: these rows explain the others. Rates stand beside the times.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels.bench import floors, inputs
from bathyscope_kernels.bench.case import Case
from bathyscope_kernels.bench.measure import Skip, Way, require_memory
from bathyscope_kernels.bench.shapes import Shape


def matmuls(shape: Shape, device: torch.device) -> Case:
    """The encode's matmul, in bfloat16, with float32 out of bfloat16, and in float32."""
    require_memory(8 * (shape.latents + inputs.TURNS * shape.tokens) * shape.d, device)
    W = inputs.unit_rows(shape.latents, shape.d, torch.bfloat16, device, seed=1000)
    batches = [(inputs.rows(shape, device, seed, torch.bfloat16),) for seed in range(inputs.TURNS)]
    work = floors.matmul(shape.tokens, shape.latents, shape.d, itemsize=2)

    def way(run: Callable[..., Any], itemsize: int) -> Way:
        require_memory(itemsize * shape.tokens * shape.latents, device)
        return Way(run, per_second=(work.flops / 1e12, "TFLOP"))

    def float32_out() -> Way:
        if device.type != "cuda":
            raise Skip("torch.mm takes out_dtype on CUDA only")
        return way(lambda x: torch.mm(x, W.T, out_dtype=torch.float32), 4)

    def float32() -> Way:
        require_memory(4 * shape.tokens * shape.latents, device)
        full = W.float()
        run = lambda x: x @ full.T  # noqa: E731
        return way(run, 4)._replace(setup=lambda x: (x.float(),))

    ways = {
        "bf16": lambda: way(lambda x: x @ W.T, 2),
        "bf16 to float32": float32_out,
        "float32": float32,
    }
    return Case([work], batches, ways, torch.bfloat16)


def topk(shape: Shape, device: torch.device) -> Case:
    """torch.topk of [tokens, latents] scores; the floor reads them once, as bfloat16."""
    numbers = shape.tokens * shape.latents

    def of(dtype: torch.dtype) -> Callable[[], Way]:
        def scores(seed: int) -> tuple[Tensor]:
            generator = torch.Generator(device=device).manual_seed(seed)
            size = (shape.tokens, shape.latents)
            return (torch.randn(size, generator=generator, dtype=dtype, device=device),)

        def make() -> Way:
            require_memory(2.2 * dtype.itemsize * numbers, device)
            rate = (numbers * dtype.itemsize / 1e9, "GB")
            return Way(lambda scores: scores.topk(shape.k, dim=1), scores, rate)

        return make

    ways = {"bf16": of(torch.bfloat16), "float32": of(torch.float32)}
    work = floors.Work(numbers, 2 * numbers + 8 * shape.tokens * shape.k)
    return Case([work], [(seed,) for seed in range(inputs.TURNS)], ways, torch.bfloat16)


def sort(shape: Shape, device: torch.device) -> Case:
    """Sort the tokens * k active indices with their places; the floor reads and writes once."""
    batches = [(inputs.active(shape, device, seed)[1].reshape(-1),) for seed in range(inputs.TURNS)]
    num = shape.tokens * shape.k

    def of(dtype: torch.dtype) -> Callable[[], Way]:
        return lambda: Way(
            lambda ids: torch.sort(ids, stable=True),
            setup=lambda ids: (ids.to(dtype),),
            per_second=(num / 1e9, "G indices"),
        )

    ways = {"int32": of(torch.int32), "int64": of(torch.int64)}
    return Case([floors.Work(num, 16 * num)], batches, ways, torch.int32)


def gather(shape: Shape, device: torch.device) -> Case:
    """index_select of random rows, and of as many rows that lie in a part that a cache holds."""
    item, num = shape.dtype.itemsize, min(shape.tokens * shape.k, 2**17)
    require_memory((2 * shape.latents + num) * shape.d * item, device)
    W = inputs.unit_rows(shape.latents, shape.d, shape.dtype, device, seed=2000)
    few = min(shape.latents, max(1, 16 * 2**20 // (shape.d * item)))
    moved = 2 * num * shape.d * item

    def ids(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, shape.latents, (num,), generator=generator).to(device)

    def way(latents: int) -> Callable[[], Way]:
        return lambda: Way(
            lambda chosen: W.index_select(0, chosen),
            setup=lambda chosen: (chosen % latents,),
            per_second=(moved / 1e9, "GB"),
        )

    ways = {"all rows": way(shape.latents), "rows of 16 MiB": way(few)}
    batches = [(ids(seed),) for seed in range(inputs.TURNS)]
    return Case([floors.Work(0, moved)], batches, ways, shape.dtype)
