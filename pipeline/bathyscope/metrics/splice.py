"""What a splice costs the model: cross entropy, KL, ΔCE and loss recovered, per document.

Logits of the clean and the changed model flow in; per-document sums of nats stay, by variant
("clean", "spliced", "zero", "mean", "pca", ...), so that documents can be resampled.

    CE[t]  = -log p(token t+1 | tokens up to t)
    KL[t]  = Σ_v p_clean(v) · (log p_clean(v) - log p_variant(v))

`keep[t]` speaks of the position that predicts: the loss at position t, whose target is token
t+1, is counted where keep[t] is true. The last position of an item predicts nothing it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bathyscope.metrics.arrays import pack, unpack
from bathyscope.metrics.finite import require_finite

CLEAN = "clean"
# One float32 block of log-probabilities is 4 MB whatever the vocabulary: it stays in the cache,
# which made this seven times faster than blocks of 64 MB (2 cores, 2048 x 49152).
_BLOCK_ELEMENTS = 1 << 20
# Under this gap between ablated and clean the ratio is noise divided by noise.
SMALLEST_GAP_NATS = 1e-3


class DocumentLosses(NamedTuple):
    """Sums over the counted tokens of each document, in rising order of document id."""

    documents: NDArray[np.int64]
    """Document ids [documents]."""
    num_tokens: NDArray[np.int64]
    """Counted tokens [documents], at least 1."""
    ce_sums: NDArray[np.float64]
    """Cross entropy in nats, summed [documents]."""
    kl_sums: NDArray[np.float64]
    """KL from clean in nats, summed [documents]; 0 for the clean variant."""

    def mean_ce(self) -> float:
        """Return nats per counted token, every token weighing the same."""
        return float(self.ce_sums.sum() / self.num_tokens.sum())

    def mean_kl(self) -> float:
        """Return KL in nats per counted token, every token weighing the same."""
        return float(self.kl_sums.sum() / self.num_tokens.sum())


class LossRecovered(NamedTuple):
    """(CE_ablated - CE_spliced) / (CE_ablated - CE_clean), with what ablated means."""

    value: float
    """1 where the splice costs nothing, 0 where it is as bad as the baseline; NaN if undefined."""
    baseline: str
    """What stands in for the activation in the ablated run: "zero" or "mean"."""
    reason: str
    """Why the value is NaN; empty otherwise."""


def next_tokens(tokens: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return targets [b, p] (token t+1 at t) and the keep mask without the last position."""
    targets, kept = torch.zeros_like(tokens), keep.clone()
    targets[:, :-1] = tokens[:, 1:]
    kept[:, -1] = False
    return targets, kept


class TokenLosses:
    """Streaming per-document CE and KL sums of several variants of one model.

    State: three numbers per document and variant. Sums are float64; the log-softmax is float32
    in blocks of rows, so no second [b, p, vocabulary] array is made. KL of nearly equal logits
    is exact to about 1e-7 nats and can fall below 0 by that much.
    """

    def __init__(self) -> None:
        self._sums: dict[str, dict[int, NDArray[np.float64]]] = {}

    @torch.no_grad()
    def update(
        self,
        variant: str,
        *,
        logits: Tensor,
        clean_logits: Tensor,
        targets: Tensor,
        keep: Tensor,
        documents: Tensor,
    ) -> None:
        """Add a batch of one variant; pass the clean logits twice for the clean variant.

        `logits` and `clean_logits` are [b, p, vocabulary]; `targets` integer and `keep` bool are
        [b, p] (see `next_tokens`); `documents` integer is [b], or [b, p] for packed items; all on
        one device.
        A document may come in several batches, but each of its tokens once per variant.
        Raises `NonFiniteError` when a loss is not finite, before anything is added.
        """
        _check_batch(logits, clean_logits, targets, keep, documents)
        item, position = keep.nonzero(as_tuple=True)
        if len(item) == 0:
            return
        ce, kl = _token_losses(logits, clean_logits, targets, (item, position))
        require_finite(f"cross entropy of variant {variant!r}", ce)
        require_finite(f"KL of variant {variant!r}", kl)
        owners = documents[item] if documents.ndim == 1 else documents[item, position]
        ids, inverse = np.unique(owners.cpu().numpy(), return_inverse=True)
        columns = [np.bincount(inverse, weights=w) for w in (np.ones(len(item)), ce, kl)]
        for document, sums in zip(ids.tolist(), np.stack(columns, axis=1), strict=True):
            self._add(variant, document, sums)

    def merge(self, other: TokenLosses) -> None:
        """Add another accumulator's sums, for instance those of another unit of work."""
        for variant, documents in other._sums.items():
            for document, sums in documents.items():
                self._add(variant, document, sums)

    def results(self) -> dict[str, DocumentLosses]:
        """Return the sums of each variant; raises `ValueError` when they cannot be compared.

        That is when no token was counted, or variants saw different documents or token counts.
        """
        if not self._sums:
            raise ValueError("no token was counted: check the keep mask, the filters and the split")
        results = {variant: _as_arrays(sums) for variant, sums in self._sums.items()}
        first_name, first = next(iter(results.items()))
        for name, losses in results.items():
            same = np.array_equal(losses.documents, first.documents) and np.array_equal(
                losses.num_tokens, first.num_tokens
            )
            if not same:
                raise ValueError(
                    f"variant {name!r} counted {int(losses.num_tokens.sum())} tokens of "
                    f"{len(losses.documents)} documents, {first_name!r} "
                    f"{int(first.num_tokens.sum())} of {len(first.documents)}: give every variant "
                    "the same batches and masks"
                )
        return results

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values, exact to the bit."""
        return {
            variant: {field: pack(column) for field, column in _as_arrays(sums)._asdict().items()}
            for variant, sums in self._sums.items()
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the accumulator that `to_dict` described."""
        made = cls()
        for variant, record in state.items():
            losses = DocumentLosses(**{field: unpack(packed) for field, packed in record.items()})
            columns = np.stack([losses.num_tokens, losses.ce_sums, losses.kl_sums], axis=1)
            made._sums[variant] = dict(zip(losses.documents.tolist(), columns, strict=True))
        return made

    def _add(self, variant: str, document: int, sums: NDArray[np.float64]) -> None:
        held = self._sums.setdefault(variant, {})
        held[document] = held[document] + sums if document in held else sums


@torch.no_grad()
def position_losses(logits: Tensor, clean_logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return CE [positions - 1] and KL [positions] of one sequence, float64 on the CPU.

    `logits` and `clean_logits` are [positions, vocabulary], `tokens` integer [positions]. CE[t] is
    that of token t+1; the last position predicts nothing that is there. Raises `NonFiniteError`.
    """
    targets, _ = next_tokens(tokens[None], torch.ones_like(tokens[None], dtype=torch.bool))
    kept = (torch.zeros_like(tokens), torch.arange(len(tokens), device=tokens.device))
    ce, kl = _token_losses(logits[None], clean_logits[None], targets, kept)
    require_finite("cross entropy", ce)
    require_finite("KL", kl)
    return ce[:-1], kl


def delta_ce(clean: DocumentLosses, spliced: DocumentLosses) -> float:
    """Return ΔCE = CE_spliced - CE_clean in nats per token; positive is worse."""
    return spliced.mean_ce() - clean.mean_ce()


def loss_recovered(clean: float, spliced: float, ablated: float, *, baseline: str) -> LossRecovered:
    """Return (CE_ablated - CE_spliced) / (CE_ablated - CE_clean) from mean nats per token.

    `baseline` names the ablation. NaN with a reason when the ablated loss is not at least
    `SMALLEST_GAP_NATS` above the clean one: then the hook point does not matter to the loss and
    there is nothing to recover.
    """
    sums = np.array([[1.0, clean, spliced, ablated]])
    value = float(recovered_from_sums(sums)[0])
    reason = ""
    if np.isnan(value):
        reason = (
            f"{baseline} ablation changes the loss by {ablated - clean:.3g} nats, under "
            f"{SMALLEST_GAP_NATS}: there is nothing to recover"
        )
    return LossRecovered(value, baseline, reason)


def recovered_from_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return loss recovered for rows of sums [n, 4]: tokens, clean, spliced, ablated CE.

    The statistic to hand to `bootstrap_statistic`; NaN as in `loss_recovered`.
    """
    tokens, clean, spliced, ablated = sums.T
    gap = (ablated - clean) / tokens
    defined = gap >= SMALLEST_GAP_NATS
    return np.where(defined, (ablated - spliced) / tokens / np.where(defined, gap, 1.0), np.nan)


def _token_losses(
    logits: Tensor, clean_logits: Tensor, targets: Tensor, kept: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return CE and KL of the kept positions, float64 [kept] on the CPU."""
    ce, kl = [], []
    for item, position in _row_blocks(kept, logits.shape[-1]):
        log_q = torch.log_softmax(logits[item, position].float(), dim=-1)
        target = targets[item, position].to(torch.int64)
        ce.append(-log_q.gather(1, target[:, None])[:, 0].to(torch.float64).cpu())
        if logits is clean_logits:
            kl.append(torch.zeros(len(item), dtype=torch.float64))
        else:
            log_p = torch.log_softmax(clean_logits[item, position].float(), dim=-1)
            kl.append(_divergence(log_p, log_q).to(torch.float64).cpu())
    return torch.cat(ce), torch.cat(kl)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL of rows [n, vocabulary] of log-probabilities."""
    p = log_p.exp()
    divergence = torch.linalg.vecdot(p, log_p - log_q)
    if not bool(torch.isfinite(divergence).all()):
        # A token with probability 0 adds 0, though 0 · (-inf - -inf) is NaN.
        divergence = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1)
    return divergence


def _row_blocks(kept: tuple[Tensor, Tensor], vocabulary: int) -> Iterator[tuple[Tensor, Tensor]]:
    step = max(1, _BLOCK_ELEMENTS // vocabulary)
    yield from zip(kept[0].split(step), kept[1].split(step), strict=True)


def _as_arrays(sums: dict[int, NDArray[np.float64]]) -> DocumentLosses:
    documents = np.array(sorted(sums), dtype=np.int64)
    table = np.stack([sums[document] for document in documents.tolist()])
    return DocumentLosses(documents, table[:, 0].astype(np.int64), table[:, 1], table[:, 2])


def _check_batch(
    logits: Tensor, clean_logits: Tensor, targets: Tensor, keep: Tensor, documents: Tensor
) -> None:
    if logits.ndim != 3 or clean_logits.shape != logits.shape:
        raise ValueError(
            f"logits are {tuple(logits.shape)} and clean_logits {tuple(clean_logits.shape)}: "
            "wanted both as [b, p, vocabulary]"
        )
    rows = logits.shape[:2]
    if targets.shape != rows or keep.shape != rows or keep.dtype != torch.bool:
        raise ValueError(
            f"targets are {tuple(targets.shape)} and keep is {keep.dtype} {tuple(keep.shape)}: "
            f"wanted {tuple(rows)} for both, keep as bool"
        )
    if documents.shape not in (rows[:1], rows):
        raise ValueError(
            f"documents are {tuple(documents.shape)}: wanted {tuple(rows[:1])} or {tuple(rows)}"
        )
    outside = keep & ((targets < 0) | (targets >= logits.shape[-1]))
    if bool(outside.any()):
        raise ValueError(
            f"{int(outside.sum())} counted targets lie outside the vocabulary of "
            f"{logits.shape[-1]}: clear keep where there is no target"
        )
