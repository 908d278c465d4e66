"""A training step: encode, decode, backward and Adam, with unit decoder rows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels.adam import RowSparseAdam
from bathyscope_kernels.autoencode import topk_autoencode
from bathyscope_kernels.bench import exact, floors, inputs, peers
from bathyscope_kernels.bench.case import MATMUL, OURS, Case
from bathyscope_kernels.bench.measure import Way, require_memory
from bathyscope_kernels.bench.shapes import Shape

LR = 1e-4


def loss_of(x: Tensor, x_hat: Tensor) -> Tensor:
    """The fraction of variance that is not explained."""
    return (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()


def step(shape: Shape, device: torch.device) -> Case:
    """One step in float32; the matmul alone is that of the encode.

    Peers: dense torch with fused Adam, sparsify's SparseCoder with fused Adam, SAELens's TopK
    training SAE with the step of its trainer. Each has weights and moments of its own.
    """
    weights_bytes = 2 * 4 * shape.latents * shape.d
    require_memory(5 * weights_bytes, device)
    W = inputs.unit_rows(shape.latents, shape.d, torch.float32, device, seed=1000)
    batches = [(inputs.rows(shape, device, seed, torch.float32),) for seed in range(inputs.TURNS)]
    score_bytes = 4 * shape.tokens * shape.latents

    def matmul() -> Way:
        require_memory(score_bytes, device)
        return Way(lambda x: x @ W.T)

    def of_peer(make: Callable[[Tensor, int], Callable[[Tensor], Any]]) -> Callable[[], Way]:
        def made() -> Way:
            require_memory(4 * weights_bytes + 4 * score_bytes, device)
            return Way(make(W, shape.k))

        return made

    ways = {
        MATMUL: matmul,
        OURS: lambda: Way(_Ours(W, shape.k).step),
        "dense torch": of_peer(lambda W, k: _Dense(W, k).step),
        "sparsify": of_peer(peers.sparsify_step),
        "SAELens": of_peer(peers.sae_lens_step),
    }
    _, indices = inputs.active(shape, device, 0)
    touched = inputs.touched(indices)
    sizes = (shape.tokens, shape.d, shape.k, touched)
    entries = shape.tokens * shape.k
    adam = floors.adam(shape.latents, shape.d, touched)
    phases = [
        floors.encode(shape.tokens, shape.d, shape.latents, entries, itemsize=4),
        floors.decode(*sizes, itemsize=4),
        floors.backward(*sizes, itemsize=4),
        adam,
        adam,
    ]
    return Case(phases, batches, ways, torch.float32, lambda: _error(batches[0][0], W, shape.k))


def initial(W: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_enc, b_enc, W_dec and b_dec to train, copies of W."""
    latents, d = W.shape
    made = (W.clone(), W.new_zeros(latents), W.clone(), W.new_zeros(d))
    for weight in made:
        weight.requires_grad_()
    return made


class _Ours:
    def __init__(self, W: Tensor, k: int) -> None:
        self.weights, self.k = initial(W), k
        W_enc, b_enc, W_dec, b_dec = self.weights
        groups = [{"params": [W_enc, b_enc, b_dec]}, {"params": [W_dec], "unit_rows": True}]
        self.optimizer = RowSparseAdam(groups, lr=LR)

    def step(self, x: Tensor) -> None:
        loss_of(x, topk_autoencode(x, *self.weights, self.k).x_hat).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class _Dense:
    """What most code does."""

    def __init__(self, W: Tensor, k: int) -> None:
        self.weights, self.k = initial(W), k
        self.optimizer = torch.optim.Adam(self.weights, lr=LR, fused=True)

    def step(self, x: Tensor) -> None:
        W_enc, b_enc, W_dec, b_dec = self.weights
        pre = torch.addmm(b_enc, x - b_dec, W_enc.T)
        values, indices = pre.topk(self.k, dim=1)
        acts = torch.zeros_like(pre).scatter(1, indices, torch.relu(values))
        loss_of(x, acts @ W_dec + b_dec).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            W_dec /= W_dec.norm(dim=1, keepdim=True)


def _error(x: Tensor, W: Tensor, k: int) -> float:
    """Error of x_hat on some rows and of the decoder's gradient on some latents."""
    weights = initial(W)
    found = topk_autoencode(x, *weights, k)
    values, indices = found.latents.values.detach(), found.latents.indices
    chosen = exact.sample(x.shape[0], x.device)
    scores = exact.scores(x[chosen], W).gather(1, indices[chosen].to(torch.int64))
    x_hat = found.x_hat.detach()
    worst = exact.relative(x_hat[chosen], exact.gathered(scores.clamp(min=0), indices[chosen], W))
    grad = x_hat - x
    found.x_hat.backward(grad)
    assert weights[2].grad is not None
    dW_dec = weights[2].grad.coalesce()
    latents = dW_dec.indices()[0]
    for place in exact.sample(latents.numel(), x.device, 8).tolist():
        right, _ = exact.weight_gradients(int(latents[place]), grad, x, values, indices, W)
        worst = max(worst, exact.relative(dW_dec.values()[place], right))
    return worst
