"""The model with everything outside of a circuit ablated.

At every site the tensor y = Σ_f z_f W_dec[f] + b_dec (+ skip) + ε is put together again: latents
and errors of the circuit as this forward has them, all others at their ablated values. So what a
circuit's node sees upstream is ablated as well. With all nodes in the circuit it is the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bathyscope.attribution.circuits.nodes import Circuit, FeatureNodes, Site
from bathyscope.attribution.nodes.forward import traced
from bathyscope.attribution.nodes.latents import rows_of
from bathyscope.attribution.nodes.metrics import evaluated, require_finite
from bathyscope.attribution.nodes.places import Change, Place
from bathyscope.errors import ConfigError
from bathyscope_kernels import Encoded, sparse_decode

Ablation = Literal["zero", "mean", "resample"]
Errors = Literal["nodes", "keep", "remove"]
_KEYS = 1 << 14
"""Decoder rows that are gathered at a time."""


@dataclass(frozen=True)
class _Replacement:
    """What nodes outside of a circuit are at one site."""

    latents: Encoded | None = None
    """Per row of the pairs, for `resample`."""
    means: tuple[Tensor, Tensor] | None = None
    """Keys of latents, as circuits have them, and their means, for `mean`."""
    errors: Tensor | None = None
    """[rows, d]; None for 0."""


class Ablated:
    """Runs circuits of some nodes with one kind of ablation.

    `zero` puts 0 in place of latents and errors; `mean` their mean over the clean prompts, and over
    positions where nodes are all positions; `resample` their values on the corrupted prompt.
    `errors` says whether error nodes belong to the circuit as others do, are all kept, or are all
    ablated.
    """

    def __init__(
        self, nodes: FeatureNodes, *, ablation: Ablation = "mean", errors: Errors = "nodes"
    ) -> None:
        if ablation not in ("zero", "mean", "resample"):
            raise ConfigError(f"ablation is {ablation!r}. Choose one of zero, mean, resample.")
        if errors not in ("nodes", "keep", "remove"):
            raise ConfigError(f"errors is {errors!r}. Choose one of nodes, keep, remove.")
        self.nodes, self.ablation, self.errors = nodes, ablation, errors
        self._replacements = [self._replacement(site) for site in nodes.sites]

    @torch.no_grad()
    def metric(self, circuit: Circuit) -> Tensor:
        """The metric with everything outside of the circuit ablated, [pairs]."""
        problem = self.nodes.contrast
        changes: dict[Place, Change] = {}
        for number, site in enumerate(self.nodes.sites):
            reads: list[Tensor] = []
            if site.read != site.written:
                changes[site.read] = _after(changes.get(site.read), _keeping(reads))
            changes[site.written] = self._change(number, circuit.keys[number], reads)
        trace = traced(problem.model, problem.pairs.clean, changes=changes)
        value = evaluated(problem.metric, trace.logits, len(problem.pairs))[0]
        return require_finite("The metric of the ablated model", value)

    def _change(self, number: int, kept: Tensor, reads: list[Tensor]) -> Change:
        keep = self.nodes.contrast.pairs.keep

        def change(y: Tensor) -> Tensor:
            x = reads[-1] if reads else y
            rows = self._put_together(number, rows_of(x), rows_of(y), kept)
            new = rows.view(*keep.shape, -1).to(y.dtype)
            return torch.where(keep[:, :, None], new, y)

        return change

    def _put_together(self, number: int, x: Tensor, y: Tensor, kept: Tensor) -> Tensor:
        """y [rows, d] with what is not kept replaced."""
        site, other = self.nodes.sites[number], self._replacements[number]
        dictionary = site.dictionary
        latents, y_hat = dictionary.reconstruct(x.to(dictionary.W_dec.dtype))
        new = y_hat - self._decoded(site, latents, self._outside(site, latents, kept))
        if other.latents is not None:
            new = new + self._decoded(site, other.latents, self._outside(site, other.latents, kept))
        if other.means is not None:
            new = new + self._mean_outside(site, *other.means, kept)
        return new + torch.where(
            self._errors_kept(site, kept)[:, None], y - y_hat, self._error(other)
        )

    def _outside(self, site: Site, latents: Encoded, kept: Tensor) -> Tensor:
        """bool [rows, width]: entries that the circuit does not hold."""
        keys = self._positions()[:, None] * site.slots + latents.indices.long()
        return ~torch.isin(keys, kept)

    def _decoded(self, site: Site, latents: Encoded, chosen: Tensor) -> Tensor:
        values = latents.values * chosen
        return sparse_decode(values, latents.indices, site.dictionary.W_dec, None)

    def _mean_outside(self, site: Site, keys: Tensor, means: Tensor, kept: Tensor) -> Tensor:
        """Σ over latents outside of the circuit of mean_f W_dec[f], [rows, d]."""
        W_dec = site.dictionary.W_dec
        outside = ~torch.isin(keys, kept)
        keys, means = keys[outside], means[outside].to(W_dec.dtype)
        total = W_dec.new_zeros(self.nodes.contrast.pairs.positions, W_dec.shape[1])
        for some, values in zip(keys.split(_KEYS), means.split(_KEYS), strict=True):
            latents = some % site.slots
            total.index_add_(0, some // site.slots, values[:, None] * W_dec[latents])
        return total[self._positions()]

    def _errors_kept(self, site: Site, kept: Tensor) -> Tensor:
        """bool [rows]."""
        positions = self._positions()
        if self.errors != "nodes":
            return torch.full_like(positions, self.errors == "keep", dtype=torch.bool)
        return torch.isin(positions * site.slots + site.slots - 1, kept)

    def _error(self, other: _Replacement) -> Tensor:
        return torch.zeros(()) if other.errors is None else other.errors

    def _positions(self) -> Tensor:
        """The position of each row as keys have it: 0 where nodes are all positions."""
        keep = self.nodes.contrast.pairs.keep
        numbers = torch.arange(keep.shape[1], device=keep.device).expand_as(keep).flatten()
        return numbers if self.nodes.by_position else torch.zeros_like(numbers)

    @torch.no_grad()
    def _replacement(self, site: Site) -> _Replacement:
        problem = self.nodes.contrast
        if self.ablation == "zero":
            return _Replacement()
        trace = problem.corrupted if self.ablation == "resample" else problem.clean
        x, y = (rows_of(trace.tensors[p]) for p in (site.read, site.written))
        latents, y_hat = site.dictionary.reconstruct(x.to(site.dictionary.W_dec.dtype))
        if self.ablation == "resample":
            return _Replacement(latents=latents, errors=y - y_hat)
        return _Replacement(means=self._means(site, latents), errors=self._mean_errors(y - y_hat))

    def _means(self, site: Site, latents: Encoded) -> tuple[Tensor, Tensor]:
        """Keys of the latents that are active on some clean prompt, and their means over rows."""
        keep, positions = self.nodes.contrast.pairs.keep.flatten(), self._positions()
        used = (latents.values != 0) & keep[:, None]
        found = (positions[:, None] * site.slots + latents.indices.long())[used]
        keys, where = torch.unique(found, return_inverse=True)
        sums = torch.zeros(len(keys), dtype=torch.float64, device=keys.device)
        sums.index_add_(0, where, latents.values[used].double())
        return keys, sums / torch.bincount(positions[keep])[keys // site.slots]

    def _mean_errors(self, errors: Tensor) -> Tensor:
        """For each row the mean of kept rows of its position, [rows, d]."""
        keep, positions = self.nodes.contrast.pairs.keep.flatten(), self._positions()
        sums = errors.new_zeros(self.nodes.contrast.pairs.positions, errors.shape[1])
        sums.index_add_(0, positions[keep], errors[keep])
        counts = torch.bincount(positions[keep], minlength=len(sums)).clamp_min(1)
        return (sums / counts[:, None])[positions]


def _keeping(reads: list[Tensor]) -> Change:
    def see(x: Tensor) -> Tensor:
        reads[:] = [x]
        return x

    return see


def _after(first: Change | None, then: Change) -> Change:
    return then if first is None else lambda x: then(first(x))
