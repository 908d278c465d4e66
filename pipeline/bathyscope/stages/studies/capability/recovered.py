"""How much of a model's loss its dictionaries keep: loss recovered, as a share and in nats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.evaluation.controls import Reconstruct
from bathyscope.metrics.bootstrap import bootstrap_ratio, bootstrap_statistic
from bathyscope.metrics.splice import CLEAN, DocumentLosses, recovered_from_sums
from bathyscope.stages.studies.coders import Coder, coders_of, mean_row, spliced_losses
from bathyscope.stages.studies.member_runs import Size
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.study import Tell
from bathyscope.values import Json

RECOVERED, CAPABILITY = "recovered", "capability"
_BASELINES = ("mean", "zero")


def measure_recovered(opened: OpenedMember, sizes: Sequence[Size], tell: Tell) -> list[Json]:
    """A row of the model's own loss, then one for each dictionary and control."""
    coders = list(coders_of(opened, sizes))
    mean = mean_row(opened)

    def means(x: Tensor) -> Tensor:
        return mean.to(x.device).expand_as(x)

    variants: dict[str, Reconstruct] = {"mean": means, "zero": torch.zeros_like}
    losses = spliced_losses(
        opened, {**variants, **{coder.name: coder.reconstruct for coder in coders}}, tell
    )
    per_nat = opened.bits_per_nat(opened.config.study.splice_tokens)
    clean = losses[CLEAN]
    first: Json = {
        "kind": CAPABILITY,
        "ce": clean.mean_ce(),
        "bits_per_byte": clean.mean_ce() * per_nat,
        "documents": len(clean.documents),
        **{f"ce_{name}": losses[name].mean_ce() for name in _BASELINES},
    }
    return [first, *(_row(opened.config, losses, coder, per_nat) for coder in coders)]


def _row(
    config: Config, losses: Mapping[str, DocumentLosses], coder: Coder, per_nat: float
) -> Json:
    """Loss recovered over both baselines, ΔCE and the nats that are kept, over documents."""
    clean, changed = losses[CLEAN], losses[coder.name]
    kept = losses["mean"].ce_sums - changed.ce_sums
    tokens = clean.num_tokens.astype(np.float64)
    delta = changed.mean_ce() - clean.mean_ce()
    draws = {"resamples": config.study.resamples, "seed": config.study.seed}
    lost = bootstrap_ratio(changed.ce_sums - clean.ce_sums, tokens, **draws)
    amount = bootstrap_ratio(kept, tokens, **draws)
    row: Json = {
        "kind": RECOVERED,
        "representation": coder.kind,
        "num_latents": coder.size.num_latents,
        "k": coder.size.k,
        "dictionary_seed": coder.size.seed,
        "ce": changed.mean_ce(),
        "delta_ce": delta,
        "delta_ce_low": lost.low,
        "delta_ce_high": lost.high,
        "delta_bits_per_byte": delta * per_nat,
        "nats_recovered": amount.estimate,
        "nats_recovered_low": amount.low,
        "nats_recovered_high": amount.high,
    }
    for baseline in _BASELINES:
        columns = np.stack(
            [tokens, clean.ce_sums, changed.ce_sums, losses[baseline].ce_sums], axis=1
        )
        found = bootstrap_statistic(columns, recovered_from_sums, **draws)
        row[f"loss_recovered_{baseline}"] = found.estimate
        row[f"loss_recovered_{baseline}_low"] = found.low
        row[f"loss_recovered_{baseline}_high"] = found.high
    return row
