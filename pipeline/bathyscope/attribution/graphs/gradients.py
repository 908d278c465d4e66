"""Rows of an attribution graph: what every source gives to a batch of targets.

    A[t, s] = (what s writes) · ∂(what t reads) / ∂(where s writes)

A target reads w · x + β at its position: w is its encoder row, or an unembedding column less the
mean. One backward pass goes through the frozen forward for a whole batch of targets that read the
same hook point. What biases give is kept beside, so that for every target

    Σ_s A[t, s] + Σ_b B[t, b] = w · x

which is checked for every row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.attribution.graphs.forward import EMBEDDING, FrozenForward, with_gradients
from bathyscope.attribution.graphs.nodes import B_DEC, EXCLUDED, Nodes
from bathyscope.attribution.graphs.replacement import Replacement, encoder_rows
from bathyscope_kernels.attribution import sampled_dot


@dataclass(frozen=True)
class Rows:
    """Rows of some targets."""

    targets: Tensor
    """int64 [b]: numbers among the latents, or num_sources + the number of the logit."""
    values: Tensor
    """float32 [b, sources]: latents, errors, tokens."""
    biases: Tensor
    """float32 [b, num biases], in the order of `bias_names`; the target's own is the last."""
    read: Tensor
    """[b]: w · x + β, the pre-activation that the row adds up to."""

    @property
    def missing(self) -> Tensor:
        """[b]: the share of what went in that the sum of a row is away from what was read."""
        total = self.values.sum(1, dtype=torch.float64) + self.biases.sum(1, dtype=torch.float64)
        size = self.values.abs().sum(1, dtype=torch.float64)
        size = size + self.biases.abs().sum(1, dtype=torch.float64)
        return (total - self.read.double()).abs() / size.clamp_min(1e-30)


def bias_names(forward: FrozenForward, replacement: Replacement) -> list[str]:
    """What stands in the columns of `Rows.biases`."""
    excluded = [f"{name} at {EXCLUDED}" for name in forward.leaves]
    b_decs = [f"{B_DEC} of {name}" for name in replacement.b_dec]
    return [*forward.biases, *b_decs, *excluded, "own"]


def rows(
    forward: FrozenForward,
    replacement: Replacement,
    nodes: Nodes,
    targets: Tensor,
    *,
    batch: int,
) -> Iterator[Rows]:
    """The rows of latents (numbers int64 [n], ascending) and of logits, `batch` at a time.

    Logits are the numbers from `nodes.num_sources` on.
    """
    latents = nodes.latents
    is_logit = targets >= nodes.num_sources
    logits = targets[is_logit] - nodes.num_sources
    for chosen in _batches(logits, batch):
        yield _logit_rows(forward, replacement, nodes, chosen)
    of_latents = targets[~is_logit]
    for number in range(len(nodes.parts)):
        for chosen in _batches(of_latents[latents.part[of_latents] == number], batch):
            yield _latent_rows(forward, replacement, nodes, number, chosen)


def _batches(targets: Tensor, batch: int) -> tuple[Tensor, ...]:
    """Splitting no targets would give one empty batch, which has no gradient."""
    return targets.split(batch) if len(targets) else ()


def _logit_rows(
    forward: FrozenForward, replacement: Replacement, nodes: Nodes, chosen: Tensor
) -> Rows:
    assert forward.final is not None
    w, own = nodes.logits.vector[chosen], nodes.logits.bias[chosen]
    position = torch.full_like(chosen, forward.final.shape[1] - 1)
    return _rows(
        forward, replacement, nodes, forward.final, w, own, position, chosen + nodes.num_sources
    )


def _latent_rows(
    forward: FrozenForward, replacement: Replacement, nodes: Nodes, number: int, chosen: Tensor
) -> Rows:
    part = nodes.parts[number]
    w, own = encoder_rows(part, nodes.latents.latent[chosen])
    x, position = forward.read[part.reads], nodes.latents.position[chosen]
    return _rows(forward, replacement, nodes, x, w, own, position, chosen)


@torch.no_grad()
def _rows(
    forward: FrozenForward,
    replacement: Replacement,
    nodes: Nodes,
    x: Tensor,
    w: Tensor,
    own: Tensor,
    position: Tensor,
    targets: Tensor,
) -> Rows:
    gradients = _gradients(forward, x, w, position)
    values = torch.cat(
        [
            _of_latents(gradients, nodes, len(targets)),
            *(
                _dots(gradients.get(n), e, w)
                for n, e in zip(nodes.written, nodes.errors, strict=True)
            ),
            _dots(gradients.get(EMBEDDING), forward.embedding.detach()[0], w),
        ],
        dim=1,
    )
    read = (x.detach()[0, position].to(w.dtype) * w).sum(1) + own
    biases = _of_biases(gradients, forward, replacement, own)
    return Rows(targets, values.float(), biases.float(), read)


def _gradients(forward: FrozenForward, x: Tensor, w: Tensor, position: Tensor) -> dict[str, Tensor]:
    """Source -> its gradient [b, P, d] or, of biases, [b, d]; without those that give nothing."""
    sources = {EMBEDDING: forward.embedding, **forward.leaves, **forward.biases}
    wanted = x.new_zeros(len(w), *x.shape)
    wanted[torch.arange(len(w)), 0, position] = w.to(x.dtype)
    with with_gradients(forward.biases):
        found = torch.autograd.grad(
            x, list(sources.values()), wanted,
            retain_graph=True, allow_unused=True, is_grads_batched=True,
        )  # fmt: skip
    return {
        name: gradient if name in forward.biases else gradient[:, 0]
        for name, gradient in zip(sources, found, strict=True)
        if gradient is not None
    }


def _dots(gradient: Tensor | None, written: Tensor, w: Tensor) -> Tensor:
    """[b, P]: per position what `written` [P, d] gives; zeros where nothing arrives."""
    if gradient is None:
        return w.new_zeros(len(w), len(written))
    return torch.einsum("bpd,pd->bp", gradient, written.to(gradient.dtype))


def _of_latents(gradients: dict[str, Tensor], nodes: Nodes, num: int) -> Tensor:
    """[b, latents]: activation times gradient · decoder row, over all that a latent writes to."""
    latents = nodes.latents
    values = latents.value.new_zeros(num, len(latents))
    for number, part in enumerate(nodes.parts):
        mine = (latents.part == number).nonzero().squeeze(1)
        one = latents.select(mine)
        for block in part.writes:
            gradient = gradients.get(block.hook_point)
            if gradient is not None and len(mine):
                W_dec = part.coder.W_dec[:, block.columns]
                values[:, mine] += sampled_dot(gradient, W_dec, one.position, one.latent, one.value)
    return values


def _of_biases(
    gradients: dict[str, Tensor], forward: FrozenForward, replacement: Replacement, own: Tensor
) -> Tensor:
    zeros = own.new_zeros(len(own))

    def total(name: str, written: Tensor, at: Tensor) -> Tensor:
        gradient = gradients.get(name)
        if gradient is None:
            return zeros
        return torch.einsum("bpd,pd->b", gradient, (written * at[:, None]).to(gradient.dtype))

    columns = [
        zeros if gradients.get(name) is None else gradients[name] @ bias.detach()
        for name, bias in forward.biases.items()
    ]
    columns += [total(n, b[None], forward.keep) for n, b in replacement.b_dec.items()]
    columns += [
        total(name, leaf.detach()[0], ~forward.keep) for name, leaf in forward.leaves.items()
    ]
    return torch.stack([*columns, own], dim=1)
