"""Encodes: TopK, BatchTopK, JumpReLU and AuxK."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels.auxk import auxk_encode
from bathyscope_kernels.batch_topk import batch_topk_encode
from bathyscope_kernels.bench import exact, floors, inputs, peers
from bathyscope_kernels.bench.case import MATMUL, OURS, Case
from bathyscope_kernels.bench.measure import Way, require_memory
from bathyscope_kernels.bench.shapes import Shape
from bathyscope_kernels.encode import topk_encode
from bathyscope_kernels.threshold import threshold_encode


class _Encoder:
    """The inputs that all encodes share."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape, self.device, self.itemsize = shape, device, shape.dtype.itemsize
        weights = shape.latents * shape.d
        batches = (inputs.TURNS + 1) * shape.tokens * shape.d
        require_memory((weights + batches) * self.itemsize, device)
        self.W, self.b = inputs.encoder(shape, device)
        self.batches = [(inputs.rows(shape, device, seed),) for seed in range(inputs.TURNS)]

    def case(
        self, ours: Callable[[Tensor], Any], error: Callable[[], float], **others: Any
    ) -> Case:
        """Put the matmul alone and ours before the other ways."""
        shape = self.shape
        ways = {MATMUL: self.matmul, OURS: lambda: Way(torch.no_grad()(ours)), **others}
        work = floors.encode(
            shape.tokens, shape.d, shape.latents, shape.tokens * shape.k, itemsize=self.itemsize
        )
        return Case([work], self.batches, ways, shape.dtype, error)

    def require_scores(self, copies: int) -> None:
        """Skip if so many score matrices do not fit."""
        scores = self.shape.tokens * self.shape.latents * self.itemsize
        require_memory(copies * scores, self.device)

    def matmul(self) -> Way:
        self.require_scores(1)
        return Way(lambda x: x @ self.W.T)

    def dense(self, select: Callable[[Tensor], Any], copies: int) -> Callable[[], Way]:
        """All pre-activations first, then `select` from them."""

        def make() -> Way:
            self.require_scores(copies)
            return Way(torch.no_grad()(lambda x: select(torch.addmm(self.b, x, self.W.T))))

        return make

    def sampled(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row numbers, their rows, and the exact scores of all latents."""
        (x,) = self.batches[0]
        chosen = exact.sample(x.shape[0], self.device)
        return chosen, x, exact.scores(x[chosen], self.W, self.b)


def topk(shape: Shape, device: torch.device) -> Case:
    """topk_encode; peers: addmm, relu and torch.topk; sparsify's fused_encoder."""
    given, k = _Encoder(shape, device), shape.k

    def ours(x: Tensor) -> Any:
        return topk_encode(x, given.W, given.b, k)

    def error() -> float:
        chosen, x, scores = given.sampled()
        found = ours(x)
        return _worst_row(scores, found.values[chosen], found.indices[chosen], found.count[chosen])

    def sparsify() -> Way:
        given.require_scores(3)
        encode = peers.sparsify_encoder(device)
        return Way(torch.no_grad()(lambda x: encode(x, given.W, given.b, k, "topk")))

    dense = given.dense(lambda pre: torch.relu(pre).topk(k, dim=1), 3)
    return given.case(ours, error, **{"mm+topk": dense, "sparsify": sparsify})


def batch_topk(shape: Shape, device: torch.device) -> Case:
    """batch_topk_encode over one batch; peer: one torch.topk over all scores."""
    given, total = _Encoder(shape, device), shape.tokens * shape.k

    def ours(x: Tensor) -> Any:
        return batch_topk_encode(x, given.W, given.b, shape.k, shape.tokens)

    def error() -> float:
        chosen, x, scores = given.sampled()
        found = ours(x)
        bound = found.values.min().double()
        worst = 0.0
        for row, exact_row in zip(chosen.tolist(), scores, strict=True):
            values, indices = found.row(row)
            worst = max(worst, exact.selection(exact_row, values, indices, bound))
        return worst

    dense = given.dense(lambda pre: torch.relu(pre).view(-1).topk(total), 3)
    return given.case(ours, error, **{"mm+topk": dense})


def threshold(shape: Shape, device: torch.device) -> Case:
    """threshold_encode, about k active per row; peer: a mask of all scores and its nonzeros."""
    given = _Encoder(shape, device)
    _, _, scores = given.sampled()
    theta = float(scores.topk(shape.k, dim=1).values[:, -1].mean())
    limits = torch.full((shape.latents,), theta, device=device)

    def ours(x: Tensor) -> Any:
        return threshold_encode(x, given.W, given.b, limits)

    def error() -> float:
        chosen, x, scores = given.sampled()
        found = ours(x)
        limit, worst = limits[0].double(), 0.0
        for row, exact_row in zip(chosen.tolist(), scores, strict=True):
            entries = slice(int(found.offsets[row]), int(found.offsets[row + 1]))
            values, indices = found.values[entries], found.indices[entries]
            worst = max(worst, exact.selection(exact_row, values, indices, limit))
        return worst

    def select(pre: Tensor) -> tuple[Tensor, Tensor]:
        places = (pre > limits).nonzero()
        return places, pre[places[:, 0], places[:, 1]]

    return given.case(ours, error, **{"mm+nonzero": given.dense(select, 2)})


def auxk(shape: Shape, device: torch.device) -> Case:
    """auxk_encode among 10 % of the latents with k = d / 2; peers get all scores for free.

    That is how they do it: the forward pass has them, those of living latents are masked.
    """
    given = _Encoder(shape, device)
    dead = torch.randperm(shape.latents, generator=torch.Generator().manual_seed(7))
    dead = dead[: max(1, shape.latents // 10)].sort().values.to(device)
    k = min(max(1, shape.d // 2), dead.numel())
    mask = torch.zeros(shape.latents, dtype=torch.bool, device=device)
    mask[dead] = True

    def ours(x: Tensor) -> Any:
        return auxk_encode(x, given.W, given.b, k, dead)

    def error() -> float:
        chosen, x, scores = given.sampled()
        found = ours(x)
        parts = (found.values[chosen], found.indices[chosen], found.count[chosen])
        return _worst_row(scores[:, dead], *parts)

    def matmul() -> Way:
        subset = given.W[dead]
        return Way(lambda x: x @ subset.T)

    def masked() -> Way:
        given.require_scores(3)
        return Way(
            lambda pre: torch.where(mask, pre, -torch.inf).topk(k, dim=1),
            setup=lambda x: (torch.addmm(given.b, x, given.W.T),),
        )

    case = given.case(ours, error, **{MATMUL: matmul, "mask+topk": masked})
    entries = shape.tokens * k
    work = floors.encode(shape.tokens, shape.d, dead.numel(), entries, itemsize=given.itemsize)
    return case._replace(phases=[work])


def _worst_row(scores: Tensor, values: Tensor, indices: Tensor, count: Tensor) -> float:
    """The largest error of some rows' k best positive scores; entries past the count are unused."""
    bounds = scores.topk(values.shape[1], dim=1).values[:, -1].clamp(min=0)
    return max(
        exact.selection(row, v[:n], i[:n], bound)
        for row, v, i, n, bound in zip(scores, values, indices, count.tolist(), bounds, strict=True)
    )
