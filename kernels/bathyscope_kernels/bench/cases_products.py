"""Dot products and lists over a dictionary: edges, attribution scores, top examples."""

from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels.attribution import sampled_dot
from bathyscope_kernels.bench import exact, floors, inputs
from bathyscope_kernels.bench.case import MATMUL, OURS, Case
from bathyscope_kernels.bench.measure import Way, require_memory
from bathyscope_kernels.bench.shapes import Shape
from bathyscope_kernels.edges import topk_edges
from bathyscope_kernels.examples import update_top_examples

EXAMPLES = 50


def edges(shape: Shape, device: torch.device) -> Case:
    """topk_edges by magnitude; peer: matmul, abs and torch.topk.

    On CUDA from 512 k to 512 k vectors, the active latents of 512 tokens in two layers; on a CPU
    from all latents to as many vectors as there are tokens.
    """
    item = shape.dtype.itemsize
    targets = sources = 512 * shape.k
    if device.type != "cuda":
        targets, sources = shape.tokens, shape.latents
    require_memory((2 * sources + inputs.TURNS * targets) * shape.d * item, device)
    W = inputs.unit_rows(sources, shape.d, shape.dtype, device, seed=1000)
    k = min(shape.k, sources)
    batches = [
        (inputs.unit_rows(targets, shape.d, shape.dtype, device, seed=50 + seed),)
        for seed in range(inputs.TURNS)
    ]

    def dense(x: Tensor) -> Any:
        scores = x @ W.T
        chosen = scores.abs().topk(k, dim=1).indices
        return scores.gather(1, chosen), chosen

    def with_room(copies: int, way: Way) -> Way:
        require_memory(copies * targets * sources * item, device)
        return way

    def error() -> float:
        (x,) = batches[0]
        chosen = exact.sample(targets, device)
        found = topk_edges(x, W, k)
        scores = exact.scores(x[chosen], W)
        bounds = scores.abs().topk(k, dim=1).values[:, -1]
        worst = 0.0
        for place, row in enumerate(chosen.tolist()):
            values, indices = found.values[row], found.indices[row].to(torch.int64)
            right = scores[place]
            worst = max(worst, exact.relative(values, right[indices]))
            worst = max(worst, exact.selection(right.abs(), values.abs(), indices, bounds[place]))
        return worst

    ways = {
        MATMUL: lambda: with_room(1, Way(lambda x: x @ W.T)),
        OURS: lambda: Way(lambda x: topk_edges(x, W, k)),
        "mm+topk": lambda: with_room(3, Way(dense)),
    }
    work = floors.edges(targets, sources, shape.d, k, itemsize=item)
    return Case([work], batches, ways, shape.dtype, error)


def dots(shape: Shape, device: torch.device) -> Case:
    """sampled_dot for k latents at each position; peer: gather, then einsum.

    256 gradients at 512 positions on CUDA, 16 at 128 on a CPU. The peer is how attribution graphs
    are computed elsewhere: it holds [batch, n, d].
    """
    item = shape.dtype.itemsize
    batch, positions = (256, 512) if device.type == "cuda" else (16, 128)
    entries = positions * shape.k
    size = (batch, positions, shape.d)
    numbers = shape.latents * shape.d + (inputs.TURNS + 2) * batch * positions * shape.d
    require_memory(numbers * item, device)
    W_dec = inputs.unit_rows(shape.latents, shape.d, shape.dtype, device, seed=2000)
    where = torch.arange(positions, device=device).repeat_interleave(shape.k)
    here = shape._replace(tokens=positions)
    batches = []
    for seed in range(inputs.TURNS):
        values, indices = inputs.active(here, device, seed)
        gradients = inputs.normal(*size, device=device, seed=seed).to(shape.dtype)
        generator = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(entries, generator=generator).to(device)
        lists = (where, indices.reshape(-1), values.reshape(-1))
        batches.append((gradients, *(t[shuffled] for t in lists)))

    def ours(g: Tensor, p: Tensor, f: Tensor, a: Tensor) -> Tensor:
        return sampled_dot(g, W_dec, p, f, a)

    def naive() -> Way:
        require_memory(1.1 * batch * entries * shape.d * item, device)
        return Way(lambda g, p, f, a: torch.einsum("bnd,nd->bn", g[:, p], W_dec[f]) * a)

    def error() -> float:
        g, p, f, a = batches[0]
        chosen = exact.sample(entries, device, 64)
        at = g[:, p[chosen]].double()
        right = torch.einsum("bnd,nd->bn", at, W_dec[f[chosen]].double()) * a[chosen].double()
        return exact.relative(ours(*batches[0])[:, chosen], right)

    ways = {OURS: lambda: Way(ours), "gather+einsum": naive}
    touched = inputs.touched(batches[0][2])
    work = floors.sampled_dot(batch, positions, entries, shape.d, touched, itemsize=item)
    return Case([work], batches, ways, shape.dtype, error)


def examples(shape: Shape, device: torch.device) -> Case:
    """update_top_examples, m = 50; peer: torch.topk over the dense activations of each latent.

    The state is that after about 50 m examples per latent: 2 % of a batch can enter.
    """
    m, latents = EXAMPLES, shape.latents
    require_memory(4 * 12 * latents * m, device)
    tail = torch.rand(latents, m, generator=torch.Generator().manual_seed(3)).to(device)
    held = torch.erfinv(1 - 0.02 * tail.sort(dim=1).values.clamp(min=1e-6)) * 2**0.5
    held_rows = torch.arange(m, device=device).repeat(latents, 1)
    batches = []
    for seed in range(inputs.TURNS):
        ids = torch.arange(shape.tokens, device=device) + m + seed * shape.tokens
        batches.append((*inputs.active(shape, device, seed), ids))

    def with_state(*batch: Tensor) -> tuple[Tensor, ...]:
        return held.clone(), held_rows.clone(), *batch

    def dense(best: Tensor, best_rows: Tensor, v: Tensor, i: Tensor, ids: Tensor) -> None:
        acts = torch.zeros(latents, m + shape.tokens, device=device)
        acts[:, :m] = best
        acts[:, m:].T.scatter_(1, i.to(torch.int64), v)
        top, places = acts.topk(m, dim=1)
        old = best_rows.gather(1, places.clamp(max=m - 1))
        best.copy_(top)
        best_rows.copy_(torch.where(places < m, old, ids[(places - m).clamp(min=0)]))

    def with_room() -> Way:
        require_memory(8 * latents * (m + shape.tokens), device)
        return Way(dense, setup=with_state)

    def error() -> float:
        best, best_rows, values, indices, ids = with_state(*batches[0])
        update_top_examples(best, best_rows, values, indices, ids)
        chosen = exact.sample(latents, device)
        # The value of an example is never rounded, so any difference is a wrong example.
        right = torch.stack(
            [
                torch.cat([held[f], values[indices == f]]).sort(descending=True).values[:m]
                for f in chosen.tolist()
            ]
        )
        return exact.relative(best[chosen], right.double())

    ways = {OURS: lambda: Way(update_top_examples, setup=with_state), "dense topk": with_room}
    work = floors.examples(shape.tokens, shape.k)
    return Case([work], batches, ways, torch.float32, error)
