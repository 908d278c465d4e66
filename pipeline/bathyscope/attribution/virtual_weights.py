"""Virtual weights: what a latent of one dictionary gives to a latent of a later one, on any input.

    V[t, s] = Σ_b w_t · G_t (P_b d_s,b)

d_s,b is what s writes at hook point b, over all that lie before the target's. P_b is the gain of a
norm between b and the stream (Gemma), G_t that of the norm that the target reads through, with the
mean taken out where it is a LayerNorm. The scales of norms depend on the input and are left out, as
is attention: this is the path straight through the residual stream at one position.

V alone has many large entries between latents that are never active together. Weighted by
co-activation (Ameisen et al. 2025, "Circuit Tracing", target-weighted expected residual
attribution):

    V'[t, s] = V[t, s] · E[a_t a_s] / E[a_t]

Whole dictionaries are multiplied a block at a time by the kernel; only edges are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn

from bathyscope.attribution.graphs.replacement import Part, encoder_rows
from bathyscope.errors import ConfigError
from bathyscope.models.families import Family, family_of
from bathyscope.models.frozen import is_norm
from bathyscope.models.hook_points import HookPoint, resolve
from bathyscope_kernels import topk_edges

ActiveRows = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Values and latents [rows, width] of some rows; slots that are not used have value 0."""


@dataclass(frozen=True)
class VirtualWeights:
    """Edges between the latents of two parts, by target, largest first."""

    targets: npt.NDArray[np.int64]
    """[m] latents of the target part."""
    sources: npt.NDArray[np.int64]
    """[m] latents of the source part."""
    values: npt.NDArray[np.float32]
    """[m] V, signed."""
    weighted: npt.NDArray[np.float64] | None = None
    """[m] V', once co-activations are known."""


def virtual_weights(model: nn.Module, source: Part, target: Part, *, most: int) -> VirtualWeights:
    """The `most` largest |V[t, s]| of every target latent.

    Raises `ConfigError` where nothing that the source writes lies before what the target reads,
    and for hook points whose way into the stream is not known.
    """
    reads = reading_rows(model, target)
    writes = writing_rows(model, source, before=target)
    found = topk_edges(reads, writes, min(most, len(writes)))
    used = torch.arange(found.values.shape[1], device=found.count.device) < found.count[:, None]
    rows, _ = used.nonzero(as_tuple=True)
    return VirtualWeights(
        rows.cpu().numpy(),
        found.indices[used].long().cpu().numpy(),
        found.values[used].float().cpu().numpy(),
    )


@torch.no_grad()
def reading_rows(model: nn.Module, part: Part) -> Tensor:
    """[latents, d]: w_t · G_t, what each latent of a part reads off the residual stream."""
    w, _ = encoder_rows(part, torch.arange(part.coder.num_latents))
    norm = _norm_before(model, resolve(model, part.reads))
    if norm is None:
        return w
    w = w * _gain(model, norm).to(w)
    return w if _is_rms(norm) else w - w.mean(1, keepdim=True)


@torch.no_grad()
def writing_rows(model: nn.Module, part: Part, *, before: Part) -> Tensor:
    """[latents, d]: Σ_b P_b d_s,b, what each latent adds to the stream before another reads it."""
    total: Tensor | None = None
    for block in part.writes:
        point = resolve(model, block.hook_point)
        if not _lies_before(model, point, resolve(model, before.reads)):
            continue
        rows = part.coder.W_dec[:, block.columns]
        norm = _norm_after(model, point)
        if norm is not None:
            rows = rows if _is_rms(norm) else rows - rows.mean(1, keepdim=True)
            rows = rows * _gain(model, norm).to(rows)
        total = rows if total is None else total + rows
    if total is None:
        raise ConfigError(
            f"Nothing that {part.name!r} writes ({', '.join(b.hook_point for b in part.writes)}) "
            f"lies before {before.reads!r}, which {before.name!r} reads. Give the earlier one "
            "first."
        )
    return total


def weighted(
    edges: VirtualWeights, rows: Iterable[tuple[ActiveRows, ActiveRows]]
) -> VirtualWeights:
    """The edges with V', from the active latents of source and target on the same rows.

    `rows` gives blocks of both, source first. Targets that are never active have V' = 0.
    """
    num_targets = int(edges.targets.max(initial=-1)) + 1
    both = np.zeros(len(edges.targets))
    alone = np.zeros(num_targets)
    for of_source, of_target in rows:
        a_s, a_t = _matrix(*of_source), _matrix(*of_target)
        a_t = _wide_enough(a_t, num_targets)
        a_s = _wide_enough(a_s, int(edges.sources.max(initial=-1)) + 1)
        alone += np.asarray(a_t.sum(axis=0)).ravel()[:num_targets]
        both += _products(a_t.T.tocsr(), a_s, edges)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.nan_to_num(both / alone[edges.targets])
    return replace(edges, weighted=edges.values * share)


def _products(a_t: sparse.csr_array, a_s: sparse.csr_array, edges: VirtualWeights) -> npt.NDArray:
    """Σ_rows a_t a_s for every edge, from [targets, rows] and [rows, sources]."""
    product = (a_t @ a_s).tocsr()
    found = product[edges.targets, edges.sources]
    return np.asarray(found.todense() if sparse.issparse(found) else found).ravel()


def _matrix(values: npt.NDArray[np.float32], latents: npt.NDArray[np.int64]) -> sparse.csr_array:
    rows, slots = np.nonzero(values)
    columns = latents[rows, slots]
    shape = (len(values), int(columns.max(initial=-1)) + 1)
    return sparse.csr_array((values[rows, slots].astype(np.float64), (rows, columns)), shape=shape)


def _wide_enough(matrix: sparse.csr_array, width: int) -> sparse.csr_array:
    if matrix.shape[1] < width:
        matrix.resize((matrix.shape[0], width))
    return matrix


def _family(model: nn.Module) -> Family:
    family = family_of(getattr(model, "config", None))
    if family is None:
        raise ConfigError(
            f"{type(model).__name__} is of no family in the table, so the norms between hook "
            "points and residual stream are not known. Virtual weights need a decoder of the table."
        )
    return family


def _norm_before(model: nn.Module, point: HookPoint) -> nn.Module | None:
    """The norm through which a hook point reads the stream; None where it is the stream."""
    family, alias = _family(model), point.name.partition(".")[0]
    if alias == "mlp_in":
        return model.get_submodule(f"{family.blocks}.{point.layer}.{family.mlp_norm}")
    if alias in ("resid_pre", "resid_mid", "resid_post"):
        return None
    raise ConfigError(
        f"How {point.name!r} reads the residual stream is not known. Virtual weights go to "
        "dictionaries that read mlp_in.L or the stream itself."
    )


def _norm_after(model: nn.Module, point: HookPoint) -> nn.Module | None:
    """The norm between what is written and the stream; None where it is added as it is."""
    family, alias = _family(model), point.name.partition(".")[0]
    if alias == "mlp_out":
        if family.mlp_write is None:
            return None
        norm = model.get_submodule(f"{family.blocks}.{point.layer}.{family.mlp_write}")
        return norm if is_norm(norm) else None
    if alias in ("attn_out", "resid_pre", "resid_mid", "resid_post"):
        return None
    raise ConfigError(
        f"How {point.name!r} adds to the residual stream is not known. Virtual weights come from "
        "dictionaries that write mlp_out.L, attn_out.L or the stream itself."
    )


_PLACES = ("resid_pre", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post")


def _lies_before(model: nn.Module, write: HookPoint, read: HookPoint) -> bool:
    """Whether what is written at one hook point is in the stream that the other reads."""
    places = [(point.layer, _PLACES.index(point.name.partition(".")[0])) for point in (write, read)]
    parallel = _family(model).is_parallel(getattr(model, "config", None))
    if parallel and places[0][0] == places[1][0]:
        return False
    return places[0] < places[1]


def _is_rms(norm: nn.Module) -> bool:
    return type(norm).__name__.endswith("RMSNorm")


def _gain(model: nn.Module, norm: nn.Module) -> Tensor:
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, Tensor):
        return torch.ones(1)
    return weight + 1 if _family(model).gain_from_one else weight
