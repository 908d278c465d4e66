#!/usr/bin/env python
"""What nights raise, through the command: planted changes of several sizes, and fresh documents.

    .venv/bin/python tests/benchmarks/night_drift.py --model FOLDER [--folder FOLDER]

FOLDER is a Llama of a ladder (`bathyscope ladder ladder=cpu`). A dictionary is trained on a part of
the installed documentation; nights read other parts of it. Fifty nights of fresh documents come
after three large ones and are compared with all before them. Planted are headers of C++ among the
documents of a night, and checkpoints from which a latent's direction is taken out, in full and in
part; each of these is a night of its own after one of 3,000 or 1,000 documents.

What has power above 0.99 has to be found: by the test of documents, for the share of documents that
the whole topic has, or that the new checkpoint has; unless its typical density changed by less than
the floor of reports, as where longer documents have a latent more often and no more densely. Every
night appends its outcome, so that a second call with the same `--folder` goes on. Exits with 1
where a fresh night is raised or such a change is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from bathyscope.commands.nightly import nightly
from bathyscope.commands.run import run as run_stages
from bathyscope.composition import compose
from bathyscope.config import Config
from bathyscope.corpora.deduplicate import Deduplicator
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.features.drift.changes import Floors
from bathyscope.features.drift.effects import typical_ratios
from bathyscope.features.drift.power import Design, power
from bathyscope.features.drift.totals import Totals
from bathyscope.runs.run import Run
from bathyscope.runs.tables import from_parquet
from bathyscope.stages.nights.comparison import totals_of
from bathyscope.stages.nights.ledger import Pair, load_ledger
from bench import conclude, folder
from drift_text import headers, texts_of, without_direction

PACKAGES = ("stdlib", "topics", "numpy", "torch")
FRESH, FRESH_DOCUMENTS = 50, 70
TRAINED, EARLIER, NIGHT = 2000, 3000, 1000
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
FIRING = (0.02, 0.05, 0.1, 0.2, 0.4)
AMOUNTS = (0.25, 0.5, 1.0)
SURE = 0.99
FLOOR = 1.5
"""nightly.least_ratio by default: of typical densities."""
MOST_TOP = 10
HOOK = "resid_post.1"
Floats = NDArray[np.float64]


class Bench:
    """A folder with texts, models, a dictionary, nights, and outcomes as lines of JSON."""

    def __init__(self, base: Path, model: Path) -> None:
        self.base, self.model, self.log = base, model, base / "outcomes.jsonl"
        # Each text once and whole: a document that is cut into pieces would be many.
        texts = [text[:500] for text in texts_of(PACKAGES, base)]
        self.trained, texts = texts[:TRAINED], texts[TRAINED:]
        self.earlier, texts = texts[:EARLIER], texts[EARLIER:]
        self.planted, self.fresh = texts[:NIGHT], texts[NIGHT:]
        # From below the licence, and nothing that the corpus would leave out as a duplicate.
        pieces, known = [text[900:1400] for text in headers()], Deduplicator()
        self.topic = [text for text in pieces if len(text) == 500 and not known.is_duplicate(text)]

    def config(self, case: str, *more: str) -> Config:
        """Of the nights of a case."""
        config, _ = compose(
            [
                "model=folder", f"model.path={self.model}", "model.dtype=float32", "data=jsonl",
                f"data.paths=[{self.base}/{case}-text/*.jsonl]", "data.sequence_length=64",
                f"hooks.points=[{HOOK}]", "hooks.batch_items=64",
                f"dictionary.run={self.base / 'main'}", "nightly.settle_s=0",
                f"nightly.checkpoints=[{self.base}/{case}-models]", "nightly.baseline=100",
                "evaluate.splice_tokens=500", "evaluate.resamples=50", "cluster=inline",
                *more, f"url={self.base / case}",
            ]
        )  # fmt: skip
        return config

    def train(self) -> None:
        """The dictionary of all nights."""
        if (self.base / "main" / "dictionaries").exists():
            return
        write(self.base / "main-text" / "a.jsonl", self.trained)
        config, _ = compose(
            [
                "model=folder", f"model.path={self.model}", "model.dtype=float32", "data=jsonl",
                f"data.paths=[{self.base}/main-text/*.jsonl]", "data.sequence_length=64",
                "data.train_tokens=250000", "data.held_out_tokens=10000", f"hooks.points=[{HOOK}]",
                "dictionary.num_latents=2048", "dictionary.k=8", "train.batch_rows=1024",
                "train.epochs=4", "cluster=inline", f"url={self.base / 'main'}",
            ]
        )  # fmt: skip
        run_stages(config, stages=("corpus", "harvest", "train"))

    def night(self, case: str, texts: Sequence[str] = (), name: str = "a") -> dict[str, Any]:
        """A night with a new file of some texts, if there are any; what it found."""
        if texts:
            write(self.base / f"{case}-text" / f"{name}.jsonl", texts)
        models = self.base / f"{case}-models"
        if not models.exists():
            shutil.copytree(self.model, models / "step-1")
        config = self.config(case)
        assert nightly(config, print), f"a night of {case} failed"
        run = Run(config.url)
        facts = run.night()
        nights = run.objects.at("nights")
        found = json.loads(nights.get(facts["results_key"]))
        [compared] = found["comparisons"] or [{"latents": [], "raised": 0}]
        last = load_ledger(nights, facts).done[-1]
        return {**compared, "raised": facts["raised"], "pair": [last.checkpoint, last.slice]}

    def copy(self, case: str, to: str) -> None:
        """The nights of a case under another name, to go on otherwise."""
        for part in ("", "-models", "-text"):
            shutil.rmtree(self.base / f"{to}{part}", ignore_errors=True)
            shutil.copytree(self.base / f"{case}{part}", self.base / f"{to}{part}")

    def totals(self, case: str, pair: Sequence[str]) -> Totals:
        """Sums over the documents of an extraction."""
        return totals_of(self.config(case), Pair(*pair))

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """An outcome from the log, or made now and appended."""
        if self.log.exists():
            for line in self.log.read_text().splitlines():
                if (found := json.loads(line))["name"] == name:
                    return dict(found)
        outcome = {"name": name, **make()}
        with self.log.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        print(outcome, flush=True)
        return outcome


def write(path: Path, texts: Sequence[str]) -> None:
    """Texts as a file of JSON lines."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")


def shares_of(totals: Totals) -> Floats:
    """Share of documents in which each latent fires."""
    return np.asarray(totals.firing_documents() / totals.documents, np.float64)


def powers_of(old: Totals, documents: int, new_shares: Floats) -> Floats:
    """Power of the test of documents for each latent, by documents alone."""
    design = Design(documents, old.documents, old.num_latents, tokens=1.0, firings=1.0)
    floors = Floors(density_ratio=FLOOR)
    found = [
        power(design, float(q), float(min(new / q, 1 / q)), floors=floors) if q > 0 else 0.0
        for q, new in zip(shares_of(old), new_shares, strict=True)
    ]
    return np.array(found)


def reported(bench: Bench, case: str) -> list[int]:
    """Latents that the last night of a case raised, the first of the report first."""
    run = Run(bench.config(case).url)
    table = from_parquet(run.objects.at("nights").get(run.night()["changes_key"]))
    return [int(latent) for latent in table["latent"].to_pylist()]


def fresh_night(bench: Bench, night: int) -> dict[str, Any]:
    """A night of documents of the same source."""
    texts = bench.fresh[night * FRESH_DOCUMENTS :][:FRESH_DOCUMENTS]
    assert len(texts) == FRESH_DOCUMENTS, "there are too few documents"
    found = bench.night("fresh", texts, f"n{night:03d}")
    return {"raised": found["raised"], "tests": found["num_tests"]}


def topic_night(bench: Bench, share: float, old: Totals, new: Floats) -> dict[str, Any]:
    """A night in which a share of the documents is of the topic."""
    case, number = f"topic-{share}", int(share * NIGHT)
    bench.copy("text", case)
    found = bench.night(case, bench.planted[: NIGHT - number] + bench.topic[:number], "b")
    night = bench.totals(case, found["pair"])
    documents = night.documents
    before, order = shares_of(old), reported(bench, case)
    # Of the other documents a few are duplicates, which the corpus leaves out.
    powers = powers_of(old, documents, before + number / documents * (new - before))
    sure = {int(latent) for latent in np.flatnonzero(np.greater(powers, SURE))}
    top, missed = order[:MOST_TOP], np.array(sorted(sure - set(order)), np.int64)
    typical = np.exp(typical_ratios(night, old, missed).estimates)
    return {
        "share": share,
        "documents": documents,
        "reported": len(order),
        "expected_by_documents": round(float(powers.sum()), 1),
        "sure": len(sure),
        "sure_missed": len(missed),
        "sure_missed_below_floor": int((typical < FLOOR).sum()),
        "top": len(top),
        "top_of_the_topic": int((new > before)[top].sum()),
        "raised": found["raised"],
    }


def removed_night(bench: Bench, latent: int, amount: float) -> dict[str, Any]:
    """A night with a checkpoint that lacks a share of a latent's direction."""
    case = f"removed-{latent}-{amount}"
    bench.copy("weights", case)
    old = bench.totals("weights", bench.once("weights", dict)["pair"])
    model = AutoModelForCausalLM.from_pretrained(bench.model)
    dictionary = Run(str(bench.base / "main")).dictionaries["main"]
    assert isinstance(dictionary, Dictionary)
    without_direction(model.model, dictionary.W_dec[latent], amount=amount)
    to = bench.base / f"{case}-models" / "step-2"
    shutil.copytree(bench.model, to)
    model.save_pretrained(to)
    found = bench.night(case)
    new = bench.totals(case, found["pair"])
    order, share = reported(bench, case), shares_of(new)
    before = shares_of(old)
    powers = powers_of(old, new.documents, share)
    return {
        "latent": latent,
        "amount": amount,
        "share_before": round(float(before[latent]), 4),
        "share_now": round(float(share[latent]), 4),
        "power": round(float(powers[latent]), 4),
        "rank": order.index(latent) + 1 if latent in order else None,
        "reported": len(order),
        "kind": next((c["kind"] for c in found["latents"] if c["latent"] == latent), None),
    }


def topics(bench: Bench) -> list[dict[str, Any]]:
    """The topic at every share."""
    pair = bench.once("text", lambda: bench.night("text", bench.earlier))["pair"]
    alone = bench.once("topic", lambda: bench.night("topic", bench.topic[NIGHT:][:NIGHT]))["pair"]
    old, new = bench.totals("text", pair), shares_of(bench.totals("topic", alone))
    return [
        bench.once(f"topic-{share}", partial(topic_night, bench, share, old, new))
        for share in SHARES
    ]


def removals(bench: Bench) -> list[dict[str, Any]]:
    """Every amount of the directions of latents that fire in some shares of the documents."""
    pair = bench.once("weights", lambda: bench.night("weights", bench.planted))["pair"]
    shares = shares_of(bench.totals("weights", pair))
    latents = [int(np.abs(shares - wanted).argmin()) for wanted in FIRING]
    return [
        bench.once(f"removed-{latent}-{amount}", partial(removed_night, bench, latent, amount))
        for amount in AMOUNTS
        for latent in latents
    ]


def freshes(bench: Bench) -> list[dict[str, Any]]:
    """Three nights, then fifty."""
    for night in range(3):
        texts = bench.earlier[night * NIGHT :][:NIGHT]
        bench.once(f"earlier-{night}", partial(bench.night, "fresh", texts, f"e{night}"))
    return [bench.once(f"fresh-{n}", partial(fresh_night, bench, n)) for n in range(FRESH)]


def main() -> int:
    """All three parts, and their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="where everything is kept")
    given = parser.parse_args()
    with folder(given.folder) as base:
        bench = Bench(Path(os.path.abspath(base)), given.model.resolve())
        bench.train()
        removed, topic, fresh = removals(bench), topics(bench), freshes(bench)
    sure = [found for found in removed if found["power"] > SURE]
    ranks = [found["rank"] for found in sure]
    missed = ranks.count(None) + sum(
        found["sure_missed"] - found["sure_missed_below_floor"] for found in topic
    )
    raised = sum(found["raised"] for found in fresh)
    keys = ("share", "reported", "expected_by_documents", "sure", "sure_missed")
    more = ("sure_missed_below_floor", "top", "top_of_the_topic")
    conclude(
        {
            "fresh_nights": len(fresh),
            "fresh_raised": raised,
            "removed": [
                [f["share_before"], f["amount"], f["rank"], f["reported"]] for f in removed
            ],
            "removed_sure": len(sure),
            "removed_sure_missed": ranks.count(None),
            "removed_sure_first": sum(rank == 1 for rank in ranks),
            "topics": [{key: found[key] for key in (*keys, *more)} for found in topic],
        }
    )
    return int(bool(missed or raised))


if __name__ == "__main__":
    sys.exit(main())
