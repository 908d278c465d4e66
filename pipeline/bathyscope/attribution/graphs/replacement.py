"""What stands in a model's place: transcoders, and where each reads and writes.

Flows in: a model and dictionaries that read one hook point and write another: transcoders, skip
transcoders, a cross-layer transcoder. Each part is one encoder with its decoder; a part of a
cross-layer transcoder writes to its own layer and to all later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bathyscope.dictionaries.cross_layer import CrossLayerTranscoder
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.dictionaries.layout import ColumnBlock
from bathyscope.errors import ConfigError
from bathyscope.models.hook_points import HookPoint, layer_numbers, resolve


@dataclass(frozen=True)
class Part:
    """One encoder with its decoder, and where it stands."""

    coder: Dictionary
    name: str
    """The dictionary that it belongs to."""
    first_latent: int
    """The number of its first latent in that dictionary."""
    reads: str
    """Hook point that it reads."""
    writes: tuple[ColumnBlock, ...]
    """Hook points that it writes, with the columns of its W_dec."""
    layer: int
    """Block that it reads from."""


class Replacement:
    """The parts of some dictionaries, and every place where MLPs write.

    `points` are the hook points by name; `written` names those that are written, in the order of
    layers, MLPs without a dictionary among them. Raises `ConfigError` for dictionaries that write
    what they read, that share a hook point to write, or whose widths are not the model's.
    """

    def __init__(self, model: nn.Module, dictionaries: dict[str, AnyDictionary]) -> None:
        self.parts: tuple[Part, ...] = tuple(_parts(model, dictionaries))
        """In the order of dictionaries; a forward knows in which order they read."""
        self.b_dec: dict[str, Tensor] = {}
        self.skips: dict[str, tuple[str, Tensor]] = {}
        """Hook point to write -> hook point to read and W_skip."""
        for name, dictionary in dictionaries.items():
            self._add_constants(name, dictionary)
        mlps = [f"mlp_out.{layer}" for layer in layer_numbers(model)]
        paths = {resolve(model, name).path for name in self.b_dec}
        names = [n for n in mlps if resolve(model, n).path not in paths] + list(self.b_dec)
        self.points = {
            name: resolve(model, name) for name in (*(p.reads for p in self.parts), *names)
        }
        self.written: tuple[str, ...] = tuple(sorted(names, key=lambda n: layer_of(self.points[n])))

    def _add_constants(self, name: str, dictionary: AnyDictionary) -> None:
        for block in dictionary.outputs:
            if block.hook_point in self.b_dec:
                raise ConfigError(
                    f"The dictionary {name!r} writes {block.hook_point!r}, which another one "
                    "writes as well. Attribute with one dictionary for each hook point."
                )
            b_dec = dictionary.b_dec
            zeros = dictionary.parts[0].W_dec.new_zeros(block.width)
            self.b_dec[block.hook_point] = zeros if b_dec is None else b_dec[block.columns]
        if isinstance(dictionary, Dictionary) and dictionary.W_skip is not None:
            read, written = dictionary.inputs[0].hook_point, dictionary.outputs[0].hook_point
            self.skips[written] = (read, dictionary.W_skip)

    @property
    def read(self) -> tuple[str, ...]:
        """The hook points that are read, each once, in the order of layers."""
        return tuple(dict.fromkeys(part.reads for part in self.parts))


def layer_of(point: HookPoint) -> int:
    """The block of a hook point. Raises `ConfigError` for one outside of blocks."""
    if point.layer is None:
        raise ConfigError(
            f"{point.name!r} lies in no block of the model, so what comes before it is not known. "
            "Attribute with dictionaries inside blocks."
        )
    return point.layer


def _parts(model: nn.Module, dictionaries: dict[str, AnyDictionary]) -> list[Part]:
    if not dictionaries:
        raise ConfigError("No dictionary is given. Attribution graphs need transcoders.")
    found: list[Part] = []
    for name, dictionary in dictionaries.items():
        _check_kind(name, dictionary)
        first = 0
        for coder in dictionary.parts:
            reads = coder.inputs[0].hook_point
            layer = layer_of(resolve(model, reads))
            for block in coder.outputs:
                if layer_of(resolve(model, block.hook_point)) < layer:
                    raise ConfigError(
                        f"The dictionary {name!r} reads {reads!r} and writes "
                        f"{block.hook_point!r}, which lies before it."
                    )
            found.append(Part(coder, name, first, reads, coder.outputs, layer))
            first += coder.num_latents
    return found


def _check_kind(name: str, dictionary: AnyDictionary) -> None:
    transcoder = isinstance(dictionary, CrossLayerTranscoder) or (
        len(dictionary.inputs) == 1 and not dictionary.writes_what_it_reads
    )
    if not transcoder:
        raise ConfigError(
            f"The dictionary {name!r} is of kind {dictionary.kind}, which writes what it reads. "
            "Attribution graphs go through transcoders, skip transcoders and cross-layer "
            "transcoders; circuits of autoencoders are in attribution.circuits."
        )


def check_widths(parts: Sequence[Part], widths: dict[str, int]) -> None:
    """Raise `ConfigError` for a part whose columns are not as wide as the hook point.

    `widths` are those of the hook points of the model.
    """
    for part in parts:
        for block in (part.coder.inputs[0], *part.writes):
            if block.width != widths[block.hook_point]:
                raise ConfigError(
                    f"The dictionary {part.name!r} has {block.width} columns for "
                    f"{block.hook_point!r}, and the model is {widths[block.hook_point]} wide "
                    "there. It was trained on another model."
                )


def encoder_rows(part: Part, latents: Tensor) -> tuple[Tensor, Tensor]:
    """w [n, d_in] and β [n] of latents of a part: z = w · x + β where they are active."""
    coder = part.coder
    w, beta = coder.activation.linear(coder.W_enc, coder.b_enc, latents)
    if coder.centre is not None:
        beta = beta - w @ coder.centre.to(w.dtype)
    return w, beta


@torch.no_grad()
def decoded(part: Part, positions: Tensor, latents: Tensor, values: Tensor, num: int) -> Tensor:
    """What latents of a part write, [num positions, d_out], without b_dec."""
    rows = part.coder.W_dec[latents].to(values.dtype) * values[:, None]
    return rows.new_zeros(num, rows.shape[1]).index_add_(0, positions, rows)
