"""The nodes of an attribution graph: active latents, errors, tokens, logits; and biases beside.

Order of nodes: latents by the part that they belong to (in the order in which parts read), then by
position and latent; errors by hook point and position; tokens by position; logits by probability.
So every source of a node stands before it among the latents, or is no target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bathyscope.attribution.graphs.forward import FrozenForward, unembedding_path
from bathyscope.attribution.graphs.replacement import Part, Replacement, decoded
from bathyscope.errors import ConfigError

EXCLUDED = "excluded positions"
B_DEC = "b_dec"


@dataclass(frozen=True)
class Latents:
    """Active latents of a prompt, [n] each."""

    part: Tensor
    """int64: number of the part, in the order of reading."""
    position: Tensor
    """int64."""
    latent: Tensor
    """int64: row of the part's matrices."""
    value: Tensor
    """float: how active it is."""

    def __len__(self) -> int:
        return len(self.part)

    def select(self, which: Tensor) -> Latents:
        """Those at the numbers, or under the mask, `which`."""
        return Latents(*(f[which] for f in (self.part, self.position, self.latent, self.value)))


@dataclass(frozen=True)
class Logits:
    """The tokens whose logits are explained, [n] each, most probable first."""

    token: Tensor
    """int64."""
    probability: Tensor
    """float."""
    vector: Tensor
    """[n, d]: column of the unembedding less the mean column."""
    bias: Tensor
    """[n]: bias of the unembedding less its mean; zeros without one."""


@dataclass(frozen=True)
class Nodes:
    """Everything that a graph of one prompt is about."""

    parts: tuple[Part, ...]
    latents: Latents
    written: tuple[str, ...]
    """Hook points to write, in the order of the forward: one row of errors each."""
    errors: tuple[Tensor, ...]
    """Per hook point [P, d_out]: the model's output less the reconstruction; 0 where excluded."""
    logits: Logits

    @property
    def num_positions(self) -> int:
        """P."""
        return len(self.errors[0])

    @property
    def num_errors(self) -> int:
        """Error nodes: one for every hook point to write and position."""
        return len(self.written) * self.num_positions

    @property
    def num_sources(self) -> int:
        """Latents, errors and tokens."""
        return len(self.latents) + self.num_errors + self.num_positions


@torch.no_grad()
def active_latents(forward: FrozenForward, parts: Sequence[Part]) -> Latents:
    """What dictionaries find in the prompt, at the positions that are kept."""
    found: list[Latents] = []
    positions = forward.keep.nonzero().squeeze(1)
    for number, part in enumerate(parts):
        x = forward.read[part.reads].detach()[0, positions]
        encoded = part.coder.encode(x.to(part.coder.W_enc.dtype))
        row, entry = (encoded.values != 0).nonzero(as_tuple=True)
        latent = encoded.indices[row, entry].long()
        order = torch.argsort(row * part.coder.num_latents + latent)
        values = encoded.values[row, entry][order]
        number_of = torch.full_like(latent, number)
        found.append(Latents(number_of, positions[row[order]], latent[order], values))
    return Latents(
        torch.cat([f.part for f in found]),
        torch.cat([f.position for f in found]),
        torch.cat([f.latent for f in found]),
        torch.cat([f.value for f in found]),
    )


@torch.no_grad()
def error_vectors(
    forward: FrozenForward, replacement: Replacement, parts: Sequence[Part], latents: Latents
) -> dict[str, Tensor]:
    """Per hook point to write, [P, d_out]: the leaf less what latents and b_dec write.

    The skip connection is no part of the leaf. Zero at excluded positions, where nothing stands
    for the model.
    """
    errors: dict[str, Tensor] = {}
    keep = forward.keep[:, None]
    for name, leaf in forward.leaves.items():
        errors[name] = leaf.detach()[0].clone()
        if name in replacement.b_dec:
            errors[name] -= replacement.b_dec[name].to(errors[name].dtype)
    for number, part in enumerate(parts):
        mine = latents.select(latents.part == number)
        y_hat = decoded(part, mine.position, mine.latent, mine.value, len(forward.tokens))
        for block in part.writes:
            errors[block.hook_point] -= y_hat[:, block.columns].to(keep.device)
    return {name: error * keep for name, error in errors.items()}


@torch.no_grad()
def chosen_logits(
    model: nn.Module,
    forward: FrozenForward,
    *,
    tokens: Sequence[int] = (),
    probability: float = 0.95,
    most: int = 10,
) -> Logits:
    """The logits of the last position that are explained.

    The most probable tokens that reach `probability` together, at most `most`; or `tokens`.
    Raises `ConfigError` for a token that is not in the vocabulary.
    """
    assert forward.logits is not None
    p = forward.logits[-1].float().softmax(-1)
    if tokens:
        outside = [t for t in tokens if not 0 <= t < len(p)]
        if outside:
            raise ConfigError(f"Token {outside[0]} is none of the {len(p)} of the vocabulary.")
        chosen = torch.tensor(list(tokens), device=p.device)
        chosen = chosen[p[chosen].argsort(descending=True, stable=True)]
    else:
        top = p.topk(min(most, len(p)))
        needed = int((top.values.cumsum(0) < probability).sum()) + 1
        chosen = top.indices[:needed]
    unembedding = model.get_submodule(unembedding_path(model))
    weight, bias = unembedding.weight, getattr(unembedding, "bias", None)
    assert isinstance(weight, Tensor)
    mean = weight.mean(0, dtype=torch.float32)
    vectors = weight[chosen].float() - mean
    offset = (
        vectors.new_zeros(len(chosen)) if bias is None else (bias[chosen] - bias.mean()).float()
    )
    return Logits(chosen, p[chosen], vectors, offset)
