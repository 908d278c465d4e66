"""What one model's dictionaries leave unexplained, and what that costs the model.

All dictionaries of a model and their controls are measured on the same held-out rows, and put in
place in the same forwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.metrics.bootstrap import bootstrap_ratio
from bathyscope.metrics.latents import LatentCounts
from bathyscope.metrics.reconstruction import Reconstruction, count_active
from bathyscope.metrics.splice import CLEAN, DocumentLosses
from bathyscope.stages.model import load_whole
from bathyscope.stages.studies.coders import BLOCK, Coder, coders_of, spliced_losses
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import at_checkpoint
from bathyscope.stages.studies.opened import OpenedMember, held_out_losses
from bathyscope.stages.studies.protocols import sizes_of
from bathyscope.stages.studies.study import Tell
from bathyscope.studies.curves import crossing
from bathyscope.studies.stability import both_sides, match_weights, unique_share
from bathyscope.values import Json

UNIQUE_BELOW = 0.9
STABLE_ABOVE = 0.7


def measure_member(config: Config, member: Member, width: int, tell: Tell) -> list[Json]:
    """A row for each dictionary of a member's run and for each control; `config` is its run's."""
    opened = OpenedMember(config)
    sizes = sizes_of(config, width)
    coders = list(coders_of(opened, sizes))
    left = _reconstructed(opened, coders, tell)
    variants = {coder.name: coder.reconstruct for coder in coders}
    losses = spliced_losses(opened, variants, lambda share, text="": tell(0.5 + 0.45 * share, text))
    curve = _checkpoint_losses(opened, member)
    per_nat = opened.bits_per_nat(config.study.splice_tokens)
    found = []
    for coder in coders:
        row = {
            "kind": coder.kind,
            "num_latents": coder.size.num_latents,
            "k": coder.size.k,
            "dictionary_seed": coder.size.seed,
            "d": width,
            "training_rows": config.study.tokens_per_latent * coder.size.num_latents,
            **left[coder.name],
            **_cost(config, losses, coder.name, per_nat, curve, member),
        }
        found.append(row)
    _add_stability(found, coders)
    return found


@torch.no_grad()
def _reconstructed(opened: OpenedMember, coders: list[Coder], tell: Tell) -> dict[str, Json]:
    """FVU, L0 and living latents of every coder on all held-out rows."""
    x = opened.held_out_rows(opened.config.study.held_out_tokens)
    found: dict[str, Json] = {}
    for number, coder in enumerate(coders):
        sums = Reconstruction(x.shape[1])
        counts = None if coder.dictionary is None else LatentCounts(coder.size.num_latents)
        for block in x.split(BLOCK):
            if coder.dictionary is None or counts is None:
                active = torch.full((len(block),), coder.size.k)
                sums.update(block, coder.reconstruct(block), num_active=active)
                continue
            latents = coder.dictionary.encode(block)
            counts.update(latents.values, latents.indices)
            decoded = coder.dictionary.decode(latents)
            sums.update(block, decoded, num_active=count_active(latents.values))
        results = sums.results()
        found[coder.name] = {"fvu": results["fvu"], "l0": results["l0"], "rows": len(x)}
        if counts is not None:
            found[coder.name]["alive"] = int((counts.counts > 0).sum())
        tell(0.5 * (number + 1) / len(coders), "reconstructions")
    return found


def _checkpoint_losses(opened: OpenedMember, member: Member) -> list[tuple[int, float]]:
    """(training tokens, loss) of every trained checkpoint on the same held-out text, in order."""
    found = []
    for checkpoint in member.checkpoints:
        if checkpoint.tokens > 0:
            own = at_checkpoint(opened.config, member, checkpoint)
            losses = held_out_losses(opened, load_whole(own))
            found.append((checkpoint.tokens, losses.mean_ce()))
    return found


def _cost(
    config: Config,
    losses: dict[str, DocumentLosses],
    name: str,
    per_nat: float,
    curve: list[tuple[int, float]],
    member: Member,
) -> Json:
    """ΔCE with its interval over documents, in other units, and as an earlier checkpoint."""
    clean, changed = losses[CLEAN], losses[name]
    interval = bootstrap_ratio(
        changed.ce_sums - clean.ce_sums,
        clean.num_tokens.astype(np.float64),
        resamples=config.study.resamples,
        seed=config.study.seed,
    )
    delta = changed.mean_ce() - clean.mean_ce()
    found: Json = {
        "clean_ce": clean.mean_ce(),
        "ce": changed.mean_ce(),
        "delta_ce": delta,
        "delta_ce_low": interval.low,
        "delta_ce_high": interval.high,
        "delta_bits_per_byte": delta * per_nat,
        "clean_bits_per_byte": clean.mean_ce() * per_nat,
        "earlier_tokens": None,
        "earlier_share": None,
    }
    if len(curve) > 1 and member.tokens:
        tokens, values = zip(*curve, strict=True)
        met = crossing(tokens, values, changed.mean_ce(), log_x=True)
        found["earlier_reason"] = met.reason
        if met.at is not None:
            found["earlier_tokens"] = met.at
            found["earlier_share"] = met.at / member.tokens
    return found


def _add_stability(rows: list[Json], coders: list[Coder]) -> None:
    """Unique latents of each dictionary, and those that another seed finds again.

    Stable latents have a partner of their own in the other dictionary, with a mean cosine of
    encoder and decoder rows above the threshold. Both dictionaries of a pair get the same count.
    """
    pairs: dict[tuple[int, int], list[tuple[Json, Coder]]] = {}
    for row, coder in zip(rows, coders, strict=True):
        if coder.dictionary is not None:
            unique = unique_share(_weights(coder)[0], UNIQUE_BELOW)
            row["unique"] = unique * coder.size.num_latents
            pairs.setdefault((coder.size.num_latents, coder.size.k), []).append((row, coder))
    for (first_row, first), (second_row, second), *_ in (p for p in pairs.values() if len(p) > 1):
        found = match_weights(_sides(first), _sides(second)).share_above(STABLE_ABOVE)
        first_row["stable"] = second_row["stable"] = found * first.size.num_latents


def _sides(coder: Coder) -> Tensor:
    return both_sides(*_weights(coder))


def _weights(coder: Coder) -> tuple[Tensor, Tensor]:
    """W_dec and W_enc."""
    dictionary: Any = coder.dictionary
    return dictionary.W_dec, dictionary.W_enc
