"""Latents of a dictionary as nodes, with an error node at every position.

    y = Σ_f z_f W_dec[f] + b_dec (+ W_skip x) + ε

y is the tensor at the hook point that the dictionary writes, x at the one that it reads; ε is the
rest. The change y' - y is the sum over latents, errors and skip, so that their nodes leave nothing
out (Marks et al. 2024, "Sparse Feature Circuits", arXiv:2403.19647).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bathyscope.attribution.nodes.bound import DenseNodes, LatentNodes, Nodes, NodeTable
from bathyscope.attribution.nodes.metrics import wide
from bathyscope.attribution.nodes.node_sets import Tensors
from bathyscope.attribution.nodes.pairs import Pairs
from bathyscope.attribution.nodes.places import Place, place_of
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.errors import HookPointError
from bathyscope_kernels import Encoded


@dataclass(frozen=True, eq=False)
class Latents:
    """The latents of an autoencoder or a transcoder that are active on one of two prompts.

    `errors` adds the error nodes, and `skip` nodes where the dictionary has a skip connection.
    """

    dictionary: Dictionary
    errors: bool = True

    def places(self, model: nn.Module) -> tuple[Place, ...]:
        """What it reads and what it writes, once where they are the same.

        Raises HookPointError for a dictionary of several hook points on a side.
        """
        return tuple(dict.fromkeys(self.read_and_written(model)))

    def read_and_written(self, model: nn.Module) -> tuple[Place, Place]:
        """The two places."""
        inputs, outputs = self.dictionary.inputs, self.dictionary.outputs
        if len(inputs) != 1 or len(outputs) != 1:
            raise HookPointError(
                f"This {self.dictionary.kind} reads {len(inputs)} hook points and writes "
                f"{len(outputs)}, so that a latent is at several places. Nodes are latents of "
                "autoencoders and transcoders."
            )
        return place_of(model, inputs[0].hook_point), place_of(model, outputs[0].hook_point)

    @torch.no_grad()
    def bind(
        self, model: nn.Module, clean: Tensors, corrupted: Tensors, pairs: Pairs
    ) -> list[Nodes]:
        """Latents, errors, skip. Raises HookPointError where the dictionary does not fit."""
        read, written = self.read_and_written(model)
        self.check_fit(read, clean[read], self.dictionary.d_in)
        self.check_fit(written, clean[written], self.dictionary.d_out)
        device, dtype = self.dictionary.W_dec.device, self.dictionary.W_dec.dtype
        keep = pairs.keep.to(device)
        x, y, x2, y2 = (
            rows_of(t[p]).to(device) for t in (clean, corrupted) for p in (read, written)
        )
        a, a_hat = self.dictionary.reconstruct(x.to(dtype))
        b, b_hat = self.dictionary.reconstruct(x2.to(dtype))
        shape = (*keep.shape, -1)
        nodes: list[Nodes] = [self._latents(written, a, b, keep)]
        if self.errors:
            change = ((y2 - b_hat) - (y - a_hat)).view(shape)
            nodes.append(DenseNodes(written, "error", change, keep, each_position=True))
            skipped = self.dictionary.skipped(x2 - x)
            if skipped is not None:
                change = skipped.view(shape)
                nodes.append(DenseNodes(written, "skip", change, keep, each_position=True))
        return nodes

    def _latents(self, place: Place, clean: Encoded, corrupted: Encoded, keep: Tensor) -> Nodes:
        width = self.dictionary.num_latents
        (keys, values), (keys2, values2) = entries(clean, width), entries(corrupted, width)
        both = torch.unique(torch.cat([keys, keys2]))
        both = both[keep.flatten()[both // width]]
        change = torch.zeros(len(both), dtype=values.dtype, device=both.device)
        for found, amount, sign in ((keys, values, -1), (keys2, values2, 1)):
            kept = keep.flatten()[found // width]
            change.index_add_(0, torch.searchsorted(both, found[kept]), sign * amount[kept])
        row, latent = both // width, both % width
        table = NodeTable(row // keep.shape[1], row % keep.shape[1], latent)
        return LatentNodes(place, self.dictionary.W_dec, table, change)

    def check_fit(self, place: Place, tensor: Tensor, width: int) -> None:
        """Raise HookPointError where the tensor at the place is not as wide as the dictionary."""
        if tensor.ndim != 3 or tensor.shape[-1] != width:
            raise HookPointError(
                f"The dictionary is {width} wide at {place.name}, where this model has "
                f"{list(tensor.shape)}. Was it trained on another model?"
            )


def rows_of(tensor: Tensor) -> Tensor:
    """[pairs, positions, d] -> [rows, d] in at least float32."""
    return tensor.flatten(0, 1).to(wide(tensor))


def entries(latents: Encoded, num_latents: int) -> tuple[Tensor, Tensor]:
    """Keys row · num_latents + latent [entries], int64 and rising, and their values."""
    used = torch.arange(latents.values.shape[1], device=latents.values.device)
    used = used < latents.count[:, None]
    row, _ = used.nonzero().T
    keys, order = (row * num_latents + latents.indices[used].long()).sort()
    return keys, latents.values[used][order]
