"""The sparse side: decode, backward and Adam."""

import math
from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels.adam import row_sparse_adam
from bathyscope_kernels.backward import sparse_backward
from bathyscope_kernels.bench import exact, floors, inputs, peers
from bathyscope_kernels.bench.case import MATMUL, OURS, Case
from bathyscope_kernels.bench.measure import Way, require_memory
from bathyscope_kernels.bench.shapes import Shape
from bathyscope_kernels.decode import sparse_decode

LR = 1e-3


def scatter(values: Tensor, indices: Tensor, latents: int, dtype: torch.dtype) -> Tensor:
    """Dense activations [rows, latents]."""
    dense = torch.zeros(values.shape[0], latents, dtype=dtype, device=values.device)
    return dense.scatter_(1, indices.to(torch.int64), values.to(dtype))


def decode(shape: Shape, device: torch.device) -> Case:
    """sparse_decode; the matmul alone has dense activations for free.

    Peers: scatter and matmul, torch's embedding_bag, sparsify's decoder.
    """
    item = shape.dtype.itemsize
    require_memory(2 * shape.latents * shape.d * item, device)
    W_dec = inputs.unit_rows(shape.latents, shape.d, shape.dtype, device, seed=2000)
    b_dec = 0.1 * inputs.normal(shape.d, device=device, seed=5)
    batches = [inputs.active(shape, device, seed) for seed in range(inputs.TURNS)]
    dense_bytes = 1.5 * shape.tokens * shape.latents * item

    def matmul() -> Way:
        require_memory(dense_bytes, device)
        return Way(
            lambda acts: acts @ W_dec,
            setup=lambda v, i: (scatter(v, i, shape.latents, shape.dtype),),
        )

    def dense() -> Way:
        require_memory(dense_bytes, device)
        return Way(lambda v, i: scatter(v, i, shape.latents, shape.dtype) @ W_dec + b_dec)

    def bag(v: Tensor, i: Tensor) -> Tensor:
        sums = torch.nn.functional.embedding_bag(i, W_dec, per_sample_weights=v, mode="sum")
        return sums + b_dec

    def sparsify() -> Way:
        impl = peers.sparsify_decoder(device)
        run = torch.no_grad()(lambda v, i: impl(i, v, W_dec.mT) + b_dec)
        return Way(run, setup=lambda v, i: (v.to(shape.dtype), i.to(torch.int64)))

    def error() -> float:
        values, indices = batches[0]
        chosen = exact.sample(shape.tokens, device)
        right = exact.gathered(values[chosen], indices[chosen], W_dec) + b_dec.double()
        return exact.relative(sparse_decode(values, indices, W_dec, b_dec)[chosen], right)

    ways = {
        MATMUL: matmul,
        OURS: lambda: Way(lambda v, i: sparse_decode(v, i, W_dec, b_dec)),
        "scatter+mm": dense,
        "embedding_bag": lambda: Way(bag, setup=lambda v, i: (v.to(shape.dtype), i.long())),
        "sparsify": sparsify,
    }
    touched = inputs.touched(batches[0][1])
    work = floors.decode(shape.tokens, shape.d, shape.k, touched, itemsize=item)
    return Case([work], batches, ways, shape.dtype, error)


def backward(shape: Shape, device: torch.device) -> Case:
    """sparse_backward in float32, as it trains; peers: dense autograd, sparsify's autograd.

    Their forward pass, which keeps the dense activations for them, is not timed.
    """
    require_memory(3 * 4 * shape.latents * shape.d, device)
    weights = [
        inputs.unit_rows(shape.latents, shape.d, torch.float32, device, seed=seed)
        for seed in (1000, 2000)
    ]
    W_enc, W_dec = (weight.requires_grad_() for weight in weights)
    b_enc = torch.zeros(shape.latents, device=device, requires_grad=True)
    leaves = (W_enc, b_enc, W_dec)
    batches = []
    for seed in range(inputs.TURNS):
        x = inputs.rows(shape, device, seed, torch.float32)
        grad = inputs.normal(shape.tokens, shape.d, device=device, seed=100 + seed)
        batches.append((grad, x, *inputs.active(shape, device, seed)))

    def ours(grad: Tensor, x: Tensor, values: Tensor, indices: Tensor) -> Any:
        return sparse_backward(grad, x, values, indices, W_dec.detach())

    def error() -> float:
        found = ours(*batches[0])
        worst = 0.0
        for place in exact.sample(found.latents.numel(), device, 8).tolist():
            latent = int(found.latents[place])
            right = exact.weight_gradients(latent, *batches[0], W_dec.detach())
            for got, wanted in zip((found.W_dec, found.W_enc), right, strict=True):
                worst = max(worst, exact.relative(got[place], wanted))
        return worst

    ways = {
        OURS: lambda: Way(ours),
        "dense autograd": lambda: _dense_autograd(shape, leaves),
        "sparsify": lambda: _sparsify_autograd(shape, leaves),
    }
    touched = inputs.touched(batches[0][3])
    work = floors.backward(shape.tokens, shape.d, shape.k, touched, itemsize=4)
    return Case([work], batches, ways, torch.float32, error)


def _dense_autograd(shape: Shape, leaves: tuple[Tensor, Tensor, Tensor]) -> Way:
    """Autograd of a dense encoder and decoder; the selection is given, as it is to ours."""
    W_enc, b_enc, W_dec = leaves
    require_memory(5 * 4 * shape.tokens * shape.latents, W_enc.device)

    def forward(grad: Tensor, x: Tensor, _: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        # The backward pass of the selection is the same scatter.
        pre = torch.relu(torch.addmm(b_enc, x, W_enc.T))
        places = indices.to(torch.int64)
        acts = torch.zeros_like(pre).scatter(1, places, pre.gather(1, places))
        return acts @ W_dec, grad

    return Way(lambda x_hat, grad: torch.autograd.grad(x_hat, leaves, grad), setup=forward)


def _sparsify_autograd(shape: Shape, leaves: tuple[Tensor, Tensor, Tensor]) -> Way:
    """Autograd of sparsify's encoder and decoder."""
    W_enc, b_enc, W_dec = leaves
    dense = 2 * shape.tokens * shape.latents
    require_memory(4 * (dense + 2 * shape.tokens * shape.k * shape.d), W_enc.device)
    encode, impl = peers.sparsify_encoder(W_enc.device), peers.sparsify_decoder(W_enc.device)

    def forward(grad: Tensor, x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        found = encode(x, W_enc, b_enc, shape.k, "topk")
        return impl(found.top_indices, found.top_acts, W_dec.mT), grad

    return Way(lambda x_hat, grad: torch.autograd.grad(x_hat, leaves, grad), setup=forward)


def adam(shape: Shape, device: torch.device) -> Case:
    """row_sparse_adam; peer: torch.optim.Adam, fused, with the gradient made dense for it."""
    size = (shape.latents, shape.d)
    require_memory(4 * 4 * math.prod(size), device)
    state = [inputs.unit_rows(*size, torch.float32, device, seed=1000)]
    state += [torch.full(size, 1e-4, device=device), torch.full(size, 1e-6, device=device)]
    batches = []
    for seed in range(inputs.TURNS):
        rows = torch.unique(inputs.active(shape, device, seed)[1]).to(torch.int64)
        batches.append(
            (rows, 1e-3 * inputs.normal(rows.numel(), shape.d, device=device, seed=seed))
        )

    def ours(rows: Tensor, grad: Tensor) -> None:
        row_sparse_adam(state[0], state[1], state[2], rows, grad, step=100, lr=LR)

    def fused() -> Way:
        require_memory(4 * 4 * math.prod(size), device)
        parameter = state[0].clone().requires_grad_()
        optimizer = torch.optim.Adam([parameter], lr=LR, fused=True)
        parameter.grad = torch.zeros_like(parameter)

        def densify(rows: Tensor, grad: Tensor) -> tuple[()]:
            assert parameter.grad is not None
            parameter.grad.zero_().index_copy_(0, rows, grad)
            return ()

        return Way(optimizer.step, setup=densify)

    def error() -> float:
        rows, grad = batches[0]
        chosen = exact.sample(rows.numel(), device)
        p, m, v = (t[rows[chosen]].double() for t in state)
        g = grad[chosen].double()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        unbiased = (v / (1 - 0.999**100)).sqrt() + 1e-8
        ours(rows, grad)
        return exact.relative(state[0][rows[chosen]], p - LR * m / (1 - 0.9**100) / unbiased)

    ways = {OURS: lambda: Way(ours), "torch Adam": fused}
    work = floors.adam(shape.latents, shape.d, batches[0][0].numel())
    return Case([work], batches, ways, torch.float32, error)
