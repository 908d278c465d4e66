"""The gradients of a batch, over all its rows, latents and processes.

Denominators of the loss first, then the rest as a sum over rows, in one pass or several. With one
pass everything comes from one forward; with several, and where denominators need the forward of
all rows, a forward without gradient goes before.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.dictionaries.activation_function import Active
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.training.forward import Forward, auxk, forward
from bathyscope.training.losses import Spread, unexplained
from bathyscope.training.mesh import Mesh
from bathyscope.training.preactivation import preactivation_loss
from bathyscope.training.sparsity import Sparsity


class Terms(NamedTuple):
    """What a batch measured, over all processes."""

    loss: float
    fvu: float
    """Of the reconstruction by all latents, mean over hook points."""
    auxk: float
    l0: float
    sparsity: float
    num_rows: int
    fired: tuple[Tensor, ...]
    """Which latents of each part were active: bool."""
    entries: int
    """Active latents of all rows in this process."""


class _Whole(NamedTuple):
    """What must be known of the whole batch before its gradient."""

    spread: Spread
    norm: float
    """Root of the mean squared norm of y."""
    l0: float
    error: Tensor | None
    """y - ŷ of these rows, where AuxK needs it."""
    error_spread: Spread | None


class _Batch(NamedTuple):
    """What is gone over."""

    x: Tensor
    y: Tensor
    num_rows: int
    """Of all processes."""
    dead: tuple[Tensor, ...]
    """The dead latents of each part; empty where no process has one."""
    centre: Tensor | None
    """What is subtracted from x, as a leaf with a gradient of its own."""
    blocks: list[slice]
    found: Forward | None
    """That of all rows, where one pass does."""
    pull: Tensor | None = None
    """The gradient that a loss outside of the dictionary has at ŷ [n, d_out]."""


class _Sums:
    """Figures added up over passes."""

    def __init__(self, dictionary: AnyDictionary, like: Tensor) -> None:
        self.fvu = like.new_zeros(())
        self.reconstruction = like.new_zeros(())
        self.auxk = like.new_zeros(())
        self.penalty = like.new_zeros(())
        self.lacking = like.new_zeros(())
        self.l0 = like.new_zeros(())
        self.entries = 0
        self.fired = [
            torch.zeros(part.num_latents, dtype=torch.bool, device=like.device)
            for part in dictionary.parts
        ]

    @torch.no_grad()
    def note(self, active: tuple[Active, ...]) -> None:
        """Count the active latents of some rows."""
        for fired, a in zip(self.fired, active, strict=True):
            fired[a.indices[a.values > 0].long()] = True
            self.l0 += a.l0.detach()
            self.entries += a.values.numel()


class Gradients:
    """Finds the gradients of batches and leaves them in `.grad` of the weights."""

    def __init__(
        self,
        dictionary: AnyDictionary,
        sparsity: Sparsity,
        mesh: Mesh,
        *,
        auxk_weight: float,
        preact_weight: float = 0.0,
        reconstruction_weight: float = 1.0,
        unit_rows: bool = True,
    ) -> None:
        self._dictionary = dictionary
        self._sparsity = sparsity
        self._mesh = mesh
        self._auxk_weight = auxk_weight
        self._preact_weight = preact_weight
        self._unit_rows = unit_rows
        self._reconstruction_weight = reconstruction_weight
        held = [part.num_latents for part in dictionary.parts]
        self._first_latents = mesh.first_latents(torch.tensor(held))

    def find(
        self,
        x: Tensor,
        y: Tensor,
        dead: tuple[Tensor, ...],
        passes: int,
        pull: Tensor | None = None,
    ) -> Terms:
        """Go over rows x [n, d_in], y [n, d_out] of this process in so many passes.

        `pull` [n, d_out] is the gradient at ŷ of a loss that is made of ŷ somewhere else: it is
        followed into the weights, and its loss is not in the terms.
        """
        batch = self._batch(x, y, dead, passes)._replace(pull=pull)
        sums = _Sums(self._dictionary, x)
        whole = self._whole(batch)
        for rows in batch.blocks:
            self._loss(batch, rows, whole, sums).backward()
        self._finish(batch.centre)
        return self._terms(sums, whole, batch.num_rows)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, passes: int) -> Tensor:
        """ŷ [n, d_out] of rows x [n, d_in] by the latents that training takes, no gradient."""
        centre = self._dictionary.b_dec if self._dictionary.subtracts_b_dec else None
        blocks = row_blocks(len(x), passes)
        return torch.cat([self._forward(x[rows], centre).y_hats[-1] for rows in blocks])

    def errors(self, x: Tensor, y: Tensor, passes: int) -> Tensor:
        """y - ŷ of rows of this process [n, d_out]."""
        return y - self.reconstruct(x, passes)

    def _batch(self, x: Tensor, y: Tensor, dead: tuple[Tensor, ...], passes: int) -> _Batch:
        dictionary = self._dictionary
        num_rows = int(self._mesh.sum_rows(torch.tensor(len(x), device=x.device)))
        centre = None
        if dictionary.subtracts_b_dec:
            assert dictionary.b_dec is not None
            centre = dictionary.b_dec.detach().clone().requires_grad_()
        dead = dead if self._has_dead(dead) else ()
        found = self._forward(x, centre) if passes == 1 else None
        return _Batch(x, y, num_rows, dead, centre, row_blocks(len(x), passes), found)

    def _has_dead(self, dead: tuple[Tensor, ...]) -> bool:
        if not dead:
            return False
        count = torch.tensor(sum(len(d) for d in dead), device=dead[0].device)
        return int(self._mesh.sum_latents(count)) > 0

    def _forward(self, x: Tensor, centre: Tensor | None) -> Forward:
        return forward(self._dictionary, x, centre, self._mesh, self._first_latents)

    def _through(self, batch: _Batch, rows: slice) -> Forward:
        if batch.found is not None:
            return batch.found
        return self._forward(batch.x[rows], batch.centre)

    @torch.no_grad()
    def _whole(self, batch: _Batch) -> _Whole:
        mesh, columns, num_rows = self._mesh, self._dictionary.outputs, batch.num_rows
        y = batch.y
        spread = Spread.of(y, columns, mesh, num_rows)
        norm = float((mesh.sum_rows(y.square().sum()) / num_rows).sqrt())
        error, l0 = None, y.new_zeros(())
        has_auxk = bool(batch.dead) and self._auxk_weight > 0
        if has_auxk or self._sparsity.needs_l0:
            errors = []
            for rows in batch.blocks:
                through = self._through(batch, rows)
                errors.append(y[rows] - through.y_hats[-1])
                l0 += sum(a.l0 for a in through.active)
            error = torch.cat(errors) if has_auxk else None
        mean_l0 = float(mesh.sum_rows(mesh.sum_latents(l0))) / num_rows
        error_spread = None if error is None else Spread.of(error, columns, mesh, num_rows)
        return _Whole(spread, norm, mean_l0, error, error_spread)

    def _loss(self, batch: _Batch, rows: slice, whole: _Whole, sums: _Sums) -> Tensor:
        """The part of the loss that belongs to these rows."""
        columns, y = self._dictionary.outputs, batch.y[rows]
        through = self._through(batch, rows)
        shares = unexplained(y, through.y_hats, columns, whole.spread)
        loss = self._reconstruction_weight * shares.mean()
        sums.fvu += shares[-1].mean().detach()
        if through.gate_hat is not None:
            loss = loss + unexplained(y, through.gate_hat[None], columns, whole.spread).mean()
        sums.reconstruction += loss.detach()
        penalty = self._sparsity.penalty(through.active, whole.norm)
        if penalty is not None:
            sums.penalty += penalty.detach()
        loss = loss + self._sparsity.surrogate(through.active, whole.l0, penalty) / batch.num_rows
        if whole.error is not None and whole.error_spread is not None:
            error_hat = auxk(self._dictionary, batch.x[rows], batch.centre, batch.dead, self._mesh)
            left = unexplained(whole.error[rows], error_hat[None], columns, whole.error_spread)
            sums.auxk += left.mean().detach()
            loss = loss + self._auxk_weight * left.mean()
        if batch.dead and self._preact_weight:
            lacking = self._lacking(batch, rows) / whole.norm
            sums.lacking += lacking.detach()
            loss = loss + self._preact_weight * lacking / batch.num_rows
        if batch.pull is not None:
            loss = loss + (batch.pull[rows] * through.y_hats[-1]).sum()
        sums.note(through.active)
        return loss

    def _lacking(self, batch: _Batch, rows: slice) -> Tensor:
        """What pre-activations of dead latents lack to their thresholds, of these rows."""
        dictionary, total = self._dictionary, batch.x.new_zeros(())
        parts = zip(dictionary.parts, dictionary.read_columns, batch.dead, strict=True)
        for part, columns, dead in parts:
            if len(dead):
                x = batch.x[rows][:, columns]
                unit_rows = self._unit_rows
                total = total + preactivation_loss(part, x, batch.centre, dead, unit_rows=unit_rows)
        return total

    def _finish(self, centre: Tensor | None) -> None:
        """Add what belongs together: b_dec's two gradients, and those of other rows."""
        if centre is not None and centre.grad is not None:
            b_dec = self._dictionary.b_dec
            assert b_dec is not None
            assert b_dec.grad is not None
            b_dec.grad += self._mesh.sum_latents(centre.grad)
        self._mesh.sum_gradients(self._dictionary)

    def _terms(self, sums: _Sums, whole: _Whole, num_rows: int) -> Terms:
        mesh = self._mesh
        of_rows = torch.stack([sums.fvu, sums.reconstruction, sums.auxk])
        fvu, reconstruction, aux = mesh.sum_rows(of_rows).tolist()
        of_latents = torch.stack([sums.l0, sums.penalty, sums.lacking])
        of_latents = mesh.sum_latents(mesh.sum_rows(of_latents))
        l0, penalty, lacking = (of_latents / num_rows).tolist()
        sparsity = self._sparsity.value(l0, penalty)
        fired = tuple(mesh.sum_rows(f.to(torch.int32)) > 0 for f in sums.fired)
        loss = reconstruction + sparsity + self._auxk_weight * aux
        loss += self._preact_weight * lacking
        return Terms(loss, fvu, aux, l0, sparsity, num_rows, fired, sums.entries)


def row_blocks(rows: int, passes: int) -> list[slice]:
    """The rows of each pass."""
    size = -(-rows // passes)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
