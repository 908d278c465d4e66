"""A prompt without what single latents write: what later latents and logits read then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from bathyscope.attribution.graphs.build import AttributionGraph
from bathyscope.attribution.graphs.forward import unembedding_path
from bathyscope.attribution.graphs.replacement import Part, encoder_rows
from bathyscope.models.capture import find_module, first_argument, first_output
from bathyscope.models.hook_points import HookPoint, resolve
from bathyscope.models.splice import spliced


def changes_without(
    model: nn.Module, found: AttributionGraph, without: np.ndarray, *, hold: bool
) -> Tensor:
    """[b, latents + logits]: what targets read without a latent, less what they read with it.

    One forward of b + 1 rows: row 0 is the prompt as it is, and each other row lacks what one of
    the `without` [b] nodes writes. With `hold` all rows have the MLP outputs of row 0; patterns and
    norm scales are those of each row, unless the model is `pinned`.
    """
    nodes = found.nodes
    taken = _taken(found, without)
    read: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in dict.fromkeys(p.reads for p in nodes.parts):
            stack.enter_context(_seen(model, resolve(model, name), read))
        skips = {p.writes[0].hook_point: p for p in nodes.parts if p.coder.W_skip is not None}
        for name in nodes.written:

            def replace(y: Tensor, name: str = name) -> Tensor:
                base = y[:1].expand_as(y) if hold else y
                if hold and name in skips:
                    base = base + _skipped(skips[name], read, found)
                return base - taken[name].to(y) if name in taken else base

            stack.enter_context(spliced(model, resolve(model, name), replace))
        head = HookPoint("unembedding", unembedding_path(model), "in", None)
        stack.enter_context(_seen(model, head, read))
        model(input_ids=found.tokens[None].expand(len(without) + 1, -1), use_cache=False)
    columns = [_reads(read[p.reads], number, found) for number, p in enumerate(nodes.parts)]
    final = read["unembedding"][:, -1]
    columns.append(final @ nodes.logits.vector.to(final).T)
    values = torch.cat(columns, dim=1).double()
    return (values[1:] - values[:1]).cpu()


def _skipped(part: Part, read: dict[str, Tensor], found: AttributionGraph) -> Tensor:
    """[batch, P, d_out]: what the skip connection adds to the first row's output."""
    x, W_skip = read[part.reads], part.coder.W_skip
    assert W_skip is not None
    return ((x - x[:1]) @ W_skip.to(x).T) * found.keep[None, :, None]


def _reads(x: Tensor, number: int, found: AttributionGraph) -> Tensor:
    """[batch, latents of a part]: w · x at the position of each."""
    latents = found.nodes.latents.select(found.nodes.latents.part == number)
    w = encoder_rows(found.nodes.parts[number], latents.latent)[0].to(x)
    return torch.einsum("bnd,nd->bn", x[:, latents.position], w)


def _taken(found: AttributionGraph, part: np.ndarray) -> dict[str, Tensor]:
    """Hook point to write -> [b + 1, P, d_out]: what the latent of each row writes there."""
    nodes = found.nodes
    taken: dict[str, Tensor] = {}
    for row, node in enumerate(part.tolist(), start=1):
        of = nodes.parts[int(nodes.latents.part[node])]
        position, value = int(nodes.latents.position[node]), nodes.latents.value[node]
        vector = of.coder.W_dec[nodes.latents.latent[node]] * value
        for block in of.writes:
            shape = (len(part) + 1, nodes.num_positions, block.width)
            at = taken.setdefault(block.hook_point, vector.new_zeros(shape))
            at[row, position] += vector[block.columns]
    return taken


@contextmanager
def _seen(model: nn.Module, point: HookPoint, into: dict[str, Tensor]) -> Iterator[None]:
    module = find_module(model, point)
    if point.side == "in":
        handle = module.register_forward_pre_hook(
            lambda _, args, kwargs: into.__setitem__(
                point.name, first_argument(point, args, kwargs)[1].detach()
            ),
            with_kwargs=True,
        )
    else:
        handle = module.register_forward_hook(
            lambda _, __, output: into.__setitem__(point.name, first_output(point, output).detach())
        )
    try:
        yield
    finally:
        handle.remove()
