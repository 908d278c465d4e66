"""What an observation says in figures: reconstruction, sparsity and loss over documents."""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.evaluation.summary import summarise_splice
from bathyscope.features.drift.effects import unexplained
from bathyscope.features.drift.totals import Totals
from bathyscope.metrics.splice import CLEAN, TokenLosses
from bathyscope.values import Json


def figures_of(totals: Totals, losses: TokenLosses, config: Config) -> Json:
    """Rows, documents, L0, FVU with its error, and of the spliced model CE and ΔCE in nats.

    FVU is centred by what the dictionary gives without a latent, which is the same every night.
    """
    fvu, error = unexplained(totals)
    found: Json = {
        "documents": totals.documents,
        "rows": totals.tokens,
        "l0": int(totals.firings.sum()) / max(totals.tokens, 1),
        "silent": int((totals.firings == 0).sum()),
        "fvu": fvu,
        "fvu_error": error,
    }
    if losses.to_dict():
        settings, by_variant = config.evaluate, losses.results()
        told = summarise_splice(by_variant, resamples=settings.resamples, seed=settings.seed)
        found |= {
            "spliced_tokens": int(by_variant[CLEAN].num_tokens.sum()),
            "clean_ce": by_variant[CLEAN].mean_ce(),
            "delta_ce": told["dictionary"]["delta_ce"],
            "delta_ce_interval": told["dictionary"]["delta_ce_interval"],
            "loss_recovered_mean": told["dictionary"]["loss_recovered_mean"]["value"],
        }
    return found
