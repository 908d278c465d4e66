"""Which tokens a latent promotes: the direct effect of decoder rows on the logits.

Decoder rows and an unembedding flow in; the strongest tokens up and down flow out. This is the
logit lens (nostalgebraist 2020) on W_dec: it sees the direct path only, not what later layers do.

    effect[latent, token] = (W_dec[latent] · gain) · U[token]
    centred               = effect - mean over tokens      (softmax ignores a common shift)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.metrics.finite import require_finite


class PromotedTokens(NamedTuple):
    """The tokens that each decoder row raises and lowers most."""

    top_ids: Tensor
    """Token ids [latents, num_tokens], int64, largest effect first; ties: smaller id first."""
    top_values: Tensor
    """Centred effects [latents, num_tokens], float32."""
    bottom_ids: Tensor
    """Token ids [latents, num_tokens], int64, most negative effect first; ties: smaller id."""
    bottom_values: Tensor
    """Centred effects [latents, num_tokens], float32."""


@torch.no_grad()
def promoted_tokens(
    W_dec: Tensor,
    unembedding: Tensor,
    *,
    norm_gain: Tensor | None = None,
    num_tokens: int = 10,
    block: int = 64,
) -> PromotedTokens:
    """Return the `num_tokens` most raised and most lowered tokens of each decoder row.

    `W_dec` is [latents, d], `unembedding` [vocabulary, d] on one device. `norm_gain` [d] is what
    the final norm multiplies by (1 + weight in families that store it so); its division by the
    norm's scale is a positive factor per position and is left out, so values are comparable
    between latents, not with logits. Rows are taken `block` at a time: memory is a few times
    block x vocabulary x 4 bytes and a float32 copy of the unembedding if it has another dtype.
    """
    _check(W_dec, unembedding, norm_gain, num_tokens=num_tokens, block=block)
    tokens = unembedding.float()
    parts = []
    for rows in W_dec.split(block):
        directions = rows.float() if norm_gain is None else rows.float() * norm_gain.float()
        effect = directions @ tokens.T
        effect -= effect.mean(dim=1, keepdim=True)
        top_values, top_ids = _largest(effect, num_tokens)
        bottom_values, bottom_ids = _largest(effect.neg_(), num_tokens)
        parts.append((top_ids, top_values, bottom_ids, -bottom_values))
    return PromotedTokens(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _largest(effect: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Return the largest values and their places in each row; ties: smaller place first."""
    values, ids = effect.topk(num_tokens, dim=1)
    # topk takes any of several equal entries. Where the last value also stands outside the
    # selection, only a stable sort of the whole row finds the smaller ids; such rows are rare.
    last = values[:, -1:]
    ambiguous = (effect == last).sum(dim=1) > (values == last).sum(dim=1)
    if bool(ambiguous.any()):
        full_values, full_ids = effect[ambiguous].sort(dim=1, descending=True, stable=True)
        values[ambiguous] = full_values[:, :num_tokens]
        ids[ambiguous] = full_ids[:, :num_tokens]
    by_id = ids.argsort(dim=1)
    values, ids = values.gather(1, by_id), ids.gather(1, by_id)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, ids.gather(1, order)


def _check(
    W_dec: Tensor, unembedding: Tensor, norm_gain: Tensor | None, *, num_tokens: int, block: int
) -> None:
    if W_dec.ndim != 2 or unembedding.ndim != 2 or W_dec.shape[1] != unembedding.shape[1]:
        raise ValueError(
            f"W_dec {tuple(W_dec.shape)} and unembedding {tuple(unembedding.shape)}: wanted "
            "[latents, d] and [vocabulary, d] of one d; give the columns of the hook point that "
            "writes to the residual stream"
        )
    if len(W_dec) == 0:
        raise ValueError("W_dec has no rows: wanted at least one latent")
    if norm_gain is not None and norm_gain.shape != W_dec.shape[1:]:
        raise ValueError(f"norm_gain {tuple(norm_gain.shape)}: wanted [{W_dec.shape[1]}]")
    if not 1 <= num_tokens <= len(unembedding) or block < 1:
        raise ValueError(
            f"num_tokens {num_tokens} and block {block}: wanted 1 to {len(unembedding)} tokens and "
            "a block of at least 1"
        )
    require_finite("W_dec", W_dec)
    require_finite("unembedding", unembedding)
