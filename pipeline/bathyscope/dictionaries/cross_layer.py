"""Cross-layer transcoders, CLTs (Ameisen et al. 2025, "Circuit Tracing").

Latents of layer l read what that layer's MLP receives, and write to its MLP's output and to those
of all later layers:

    z_l = f(W_enc_l x_l + b_enc_l),     ŷ_m = Σ_{l ≤ m} W_dec_{l→m}ᵀ z_l + b_dec_m

Each layer is a part with matrices of its own: its decoder has columns for the layers from its own
on, so nothing is stored for those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bathyscope.dictionaries.activation_function import ActivationFunction, ordered
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.layout import ColumnBlock, Columns, columns_of, width_of
from bathyscope.dictionaries.transcoder import Transcoder
from bathyscope.errors import ConfigError
from bathyscope.values import Json
from bathyscope_kernels import Encoded, sparse_decode


class CrossLayerTranscoder(nn.Module):
    """One transcoder per layer that writes to all layers from its own on.

    `activations` has one function for each layer. Latents are numbered layer by layer.
    """

    kind = "cross_layer_transcoder"
    subtracts_b_dec = False
    prefixes: tuple[int, ...] = ()

    def __init__(
        self,
        inputs: Columns,
        outputs: Columns,
        activations: Sequence[ActivationFunction],
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not len(inputs) == len(outputs) == len(activations):
            raise ConfigError(
                f"A cross-layer transcoder got {len(inputs)} hook points to read, {len(outputs)} "
                f"to write and {len(activations)} activation functions; wanted one of each per "
                "layer."
            )
        self.inputs, self.outputs = inputs, outputs
        self.layers = nn.ModuleList(
            Transcoder(
                columns_of([(read.hook_point, read.width)]),
                columns_of([(b.hook_point, b.width) for b in outputs[layer:]]),
                activations[layer],
                dtype=dtype,
                has_b_dec=False,
            )
            for layer, read in enumerate(inputs)
        )
        self.b_dec = nn.Parameter(torch.zeros(width_of(outputs), dtype=dtype))

    @property
    def parts(self) -> tuple[Dictionary, ...]:
        """The transcoders of the layers."""
        return tuple(cast(Dictionary, layer) for layer in self.layers)

    @property
    def read_columns(self) -> tuple[slice, ...]:
        """The columns of x that each part reads: those of its layer."""
        return tuple(block.columns for block in self.inputs)

    @property
    def written_columns(self) -> tuple[slice, ...]:
        """The columns of y that each part writes: those of its layer and of all later ones."""
        return tuple(slice(block.start, self.d_out) for block in self.outputs)

    @property
    def num_latents(self) -> int:
        """Latents of all layers."""
        return sum(part.num_latents for part in self.parts)

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads, over all layers."""
        return width_of(self.inputs)

    @property
    def d_out(self) -> int:
        """Width of the activations that it writes, over all layers."""
        return width_of(self.outputs)

    @property
    def k(self) -> int:
        """The number of active latents per row that is wanted, over all layers.

        Raises where it is not known.
        """
        return sum(part.k for part in self.parts)

    @property
    def known_k(self) -> int | None:
        """The same; None where the file that it came from did not say."""
        return None if any(part.known_k is None for part in self.parts) else self.k

    @property
    def writes_what_it_reads(self) -> bool:
        """Never."""
        return False

    def encode(self, x: Tensor) -> Encoded:
        """The active latents of rows x [rows, d_in], of all layers."""
        values, indices, first = [], [], 0
        for block, part in zip(self.inputs, self.parts, strict=True):
            found = part.encode(x[:, block.columns].contiguous())
            values.append(found.values)
            indices.append(found.indices + first)
            first += part.num_latents
        return ordered(torch.cat(values, 1), torch.cat(indices, 1))

    def decode(self, latents: Encoded) -> Tensor:
        """ŷ [rows, d_out]."""
        y_hat = self.b_dec.to(latents.values.dtype).expand(len(latents.values), -1).clone()
        first = 0
        for block, part in zip(self.outputs, self.parts, strict=True):
            indices = latents.indices - first
            mine = (indices >= 0) & (indices < part.num_latents)
            values = latents.values.masked_fill(~mine, 0)
            y_hat[:, block.start :] += sparse_decode(
                values, indices.masked_fill(~mine, 0), part.W_dec
            )
            first += part.num_latents
        return y_hat

    def reconstruct(self, x: Tensor) -> tuple[Encoded, Tensor]:
        """The active latents of rows x [rows, d_in], and ŷ [rows, d_out]."""
        latents = self.encode(x)
        return latents, self.decode(latents)

    def forward(self, x: Tensor) -> Tensor:
        """ŷ for rows x [rows, d_in]."""
        return self.decode(self.encode(x))

    def normalize_decoder(self) -> None:
        """Set every decoder row, over all layers that it writes to, to unit norm."""
        for part in self.parts:
            part.normalize_decoder()

    @torch.no_grad()
    def fold_scales(self, inputs: Tensor, outputs: Tensor) -> None:
        """Make one that was trained on x / inputs and y / outputs read x and write y."""
        # Latents of all layers grow by one factor or by none, so that they stay comparable.
        same = bool((outputs == outputs[0]).all())
        for read, write, part in zip(self.inputs, self.outputs, self.parts, strict=True):
            part.fold_scales(inputs[read.columns], outputs[write.start :], same=same)
        self.b_dec.mul_(outputs.to(self.b_dec.dtype))

    def settings(self) -> Json:
        """What config.json says of it, beside the dtype."""
        first = self.parts[0].activation
        return {
            "kind": self.kind,
            "num_latents": self.num_latents,
            "latents_per_layer": [part.num_latents for part in self.parts],
            "d_in": self.d_in,
            "d_out": self.d_out,
            "inputs": [block.to_dict() for block in self.inputs],
            "outputs": [block.to_dict() for block in self.outputs],
            **first.settings(),
            "eps_per_layer": [getattr(part.activation, "eps", 0.0) for part in self.parts],
        }


def check_layers(inputs: Columns, outputs: Columns) -> None:
    """Raise `ConfigError` unless hook points come in the order of layers, one of each."""
    pairs: list[tuple[ColumnBlock, ColumnBlock]] = list(zip(inputs, outputs, strict=False))
    if len(inputs) != len(outputs) or not pairs:
        raise ConfigError(
            f"A cross-layer transcoder reads {len(inputs)} hook points and writes {len(outputs)}; "
            "wanted one to read and one to write for each layer, in the order of layers."
        )
