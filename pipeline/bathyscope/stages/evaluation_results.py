"""What an evaluation says: sums of its units become results.json and the headline figures."""

from __future__ import annotations

from collections.abc import Mapping

from bathyscope.config import Config
from bathyscope.evaluation.summary import summarise_splice, without_nan
from bathyscope.metrics.latents import LatentCounts
from bathyscope.metrics.reconstruction import Reconstruction
from bathyscope.metrics.splice import CLEAN, TokenLosses
from bathyscope.runs.identity import digest
from bathyscope.runs.run import Run
from bathyscope.stages.masks import PROTOCOL
from bathyscope.stages.model import describe_model
from bathyscope.values import HELD_OUT, SPLITS, TRAIN, Json, Receipt

DICTIONARY = "dictionary"


def results_of(config: Config, run: Run, receipts: Mapping[int, Receipt]) -> Json:
    """Everything that was measured, with the protocol; JSON without NaN."""
    results = {
        "reconstruction": {split: _merged(receipts, split) for split in SPLITS},
        "splice": {split: _spliced(config, receipts, split) for split in SPLITS},
        "protocol": _protocol(config, run),
        "model": describe_model(config).name,
    }
    found: Json = without_nan(results)
    return found


def _merged(receipts: Mapping[int, Receipt], split: str) -> Json:
    parts = [r.figures for r in receipts.values() if r.figures["split"] == split]
    results: Json = {}
    for name in parts[0]["reconstruction"]:
        sums = Reconstruction.from_dict(parts[0]["reconstruction"][name])
        for part in parts[1:]:
            sums.merge(Reconstruction.from_dict(part["reconstruction"][name]))
        results[name] = sums.results()
        if name != DICTIONARY:
            results[name].pop("l0")
    counts = LatentCounts.from_dict(parts[0]["counts"])
    for part in parts[1:]:
        counts.merge(LatentCounts.from_dict(part["counts"]))
    dead = counts.dead_share()
    results[DICTIONARY]["dead_share"] = dead.share
    results[DICTIONARY]["dead_share_rows"] = dead.num_rows
    return results


def _spliced(config: Config, receipts: Mapping[int, Receipt], split: str) -> Json | None:
    """Losses of one split; None when none of its items went through the model."""
    losses = TokenLosses()
    for receipt in receipts.values():
        if receipt.figures["split"] == split:
            losses.merge(TokenLosses.from_dict(receipt.figures["losses"]))
    if not losses.to_dict():
        return None
    found = losses.results()
    settings = config.evaluate
    return {
        "targets": int(found[CLEAN].num_tokens.sum()),
        "documents": len(found[CLEAN].documents),
        "clean_ce": found[CLEAN].mean_ce(),
        "variants": summarise_splice(found, resamples=settings.resamples, seed=settings.seed),
    }


def _protocol(config: Config, run: Run) -> Json:
    return {
        "positions": PROTOCOL,
        "corpus": digest(run.corpus.identity),
        "corpus_policy": run.corpus.facts["policy"],
        "baselines": {
            "zero": "the activation is set to zero",
            "mean": "the activation is set to the mean over training rows",
        },
        "controls": {
            "pca": f"{config.evaluate.control_components} principal components of training rows",
            "random": "random unit directions of the same number and k, scaled by least squares",
        },
        "bootstrap": f"{config.evaluate.resamples} resamples of documents, 95 % percentiles",
        "seed": config.evaluate.seed,
        "clean": "the model restarted from the stored bfloat16 activations",
    }


def headline(results: Json) -> Json:
    """The figures of the last line of a run."""
    found = results["reconstruction"][HELD_OUT][DICTIONARY]
    trained = results["reconstruction"][TRAIN][DICTIONARY]
    splice = results["splice"][HELD_OUT]["variants"][DICTIONARY]
    return {
        "l0": found["l0"],
        "fvu": found["fvu"],
        "train_fvu": trained["fvu"],
        "loss_recovered_zero": splice["loss_recovered_zero"]["value"],
        "delta_ce": splice["delta_ce"],
        "kl": splice["kl"],
        "dead_share": trained["dead_share"],
        "dead_share_rows": trained["dead_share_rows"],
        "fvu_pca": results["reconstruction"][HELD_OUT]["pca"]["fvu"],
        "fvu_random": results["reconstruction"][HELD_OUT]["random"]["fvu"],
    }
