"""What a night found, as files: the report, a table of all changes, merged features, the manifest.

reports/<night>/index.html       one file that opens from disk
reports/<night>/results.json     what it shows
reports/<night>/changes.parquet  every latent that changed, in every comparison
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bathyscope.config import Config
from bathyscope.evaluation.summary import without_nan
from bathyscope.features.drift.compare import LatentChange
from bathyscope.models.tokenizers import load_tokenizer
from bathyscope.pages.night import night_page
from bathyscope.runs.record import now
from bathyscope.runs.run import OBSERVATIONS, Run
from bathyscope.runs.tables import to_parquet
from bathyscope.stages.inputs import model_folder
from bathyscope.stages.nights.comparison import (
    Comparison,
    compared,
    planned_comparisons,
    run_of,
)
from bathyscope.stages.nights.history import Nights
from bathyscope.stages.nights.ledger import Pair, save_ledger
from bathyscope.stages.nights.merged import merge_features
from bathyscope.stages.nights.night import Night
from bathyscope.stages.nights.retention import REPORTS, forget_older
from bathyscope.values import Json


def write_findings(config: Config, nights: Nights, night: Night) -> Json:
    """Compare, write everything but the manifest, and return its facts.

    The ledger has what the night did by now. Written again after a stop, everything is the same.
    """
    number, objects, ledger = night.agenda.night, nights.objects, nights.ledger
    planned = planned_comparisons(ledger, night.done, baseline=config.nightly.baseline)
    made = compared(config, planned)
    by_checkpoint: dict[str, list[Pair]] = {}
    for pair in night.done:
        by_checkpoint.setdefault(pair.checkpoint, []).append(pair)
    for checkpoint, pairs in by_checkpoint.items():
        merge_features(config, objects, ledger, checkpoint, pairs, number)
    folder = f"{REPORTS}/{number:08d}"
    results: Json = without_nan(
        {
            "night": number,
            "title": f"Night {number}",
            "told": _told(night, made),
            "started": night.started,
            "finished": now(),
            "host": socket.gethostname(),
            "checkpoints": [each.name for each in night.agenda.checkpoints],
            "slice": ledger.slices.get(night.agenda.slice_name),
            "extractions": [_extraction(config, pair) for pair in night.done],
            "comparisons": [_comparison(config, night, each) for each in made],
            "failed": night.failed,
            "notes": night.notes,
            "dictionary": nights.identity["dictionary"],
            "steps": night.steps,
        }
    )
    objects.put(f"{folder}/changes.parquet", to_parquet(_changes(made)))
    objects.put(f"{folder}/results.json", json.dumps(results, indent=1).encode())
    objects.put(f"{folder}/index.html", night_page(results).encode())
    # Compared with, and not needed any more.
    forget_older(ledger, number, config.nightly.keep_nights)
    return {
        **{key: results[key] for key in ("night", "told", "started", "finished", "host", "failed")},
        "raised": sum(each.drift.raised for each in made),
        "report_key": f"{folder}/index.html",
        "results_key": f"{folder}/results.json",
        "changes_key": f"{folder}/changes.parquet",
        "tables": ledger.tables,
        **save_ledger(objects, ledger, number),
    }


def _told(night: Night, made: Sequence[Comparison]) -> str:
    """The night in one line."""
    latents = len({(each.planned.pair, c.latent) for each in made for c in each.drift.latents})
    series = sum(s.changed for each in made for s in each.drift.series)
    if not made:
        changed = "nothing to compare with yet"
    elif latents or series:
        changed = f"{latents} latents and {series} series changed"
    else:
        changed = f"nothing changed in {len(made)} comparison(s)"
    failed = f"; {len(night.failed)} failed" if night.failed else ""
    return f"{len(night.done)} extraction(s), {changed}{failed}"


def _extraction(config: Config, pair: Pair) -> Json:
    artifact = f"{OBSERVATIONS}/{config.dictionary.name}"
    facts = run_of(config, pair).manifest(artifact).facts
    figures = {key: value for key, value in facts.items() if not key.endswith("_key")}
    return {"checkpoint": pair.checkpoint, "slice": pair.slice, **figures}


def _comparison(config: Config, night: Night, made: Comparison) -> Json:
    planned, drift = made.planned, made.drift
    shown = drift.latents[: config.nightly.shown]
    windows = _Windows(config, night, planned.pair, planned.against[-1], shown)
    return {
        "kind": planned.kind,
        "checkpoint": planned.pair.checkpoint,
        "slice": planned.pair.slice,
        "against": [f"{pair.checkpoint}/{pair.slice}" for pair in planned.against],
        "raised": drift.raised,
        "changed_latents": len(drift.latents),
        "series": [each._asdict() for each in drift.series],
        "fvu": list(drift.fvu),
        "fvu_error": list(drift.fvu_error),
        "num_tests": drift.num_tests,
        "error": drift.error,
        "notes": drift.notes,
        "power": [{"density": density, "ratio": ratio} for density, ratio in made.found],
        "latents": [{**each._asdict(), **windows.of(each.latent)} for each in shown],
    }


class _Windows:
    """Examples of changed latents as text, of this extraction and of the newest before it."""

    def __init__(
        self, config: Config, night: Night, now_: Pair, before: Pair, shown: Sequence[LatentChange]
    ) -> None:
        latents = [change.latent for change in shown]
        self._most = config.nightly.examples
        model = night.checkpoints[now_.checkpoint].of(config)
        self._tokenizer = load_tokenizer(model_folder(replace(config, model=model)))
        name = config.dictionary.name
        self._tables = {
            "now": _examples(run_of(config, now_), name, latents),
            "before": _examples(run_of(config, before), name, latents),
        }

    def of(self, latent: int) -> Json:
        """`now` and `before`: windows as words with activations."""
        return {
            f"examples_{when}": [self._window(row) for row in rows.get(latent, [])[: self._most]]
            for when, rows in self._tables.items()
        }

    def _window(self, row: Json) -> Json:
        words = [self._tokenizer.decode([token]) for token in row["token_ids"]]
        return {"words": words, "activations": row["activations"], "value": row["value"]}


def _examples(run: Run, name: str, latents: Sequence[int]) -> dict[int, list[Any]]:
    """The strongest examples of some latents, by latent."""
    if not latents:
        return {}
    wanted = pc.is_in(pc.field("latent"), pa.array(latents, pa.int64()))
    rows = run.examples(name).filter(wanted & (pc.field("band") == 0))
    found: dict[int, list[Any]] = {}
    for row in rows.sort_by([("latent", "ascending"), ("rank", "ascending")]).to_pylist():
        found.setdefault(row["latent"], []).append(row)
    return found


_CHANGES = pa.schema(
    [
        pa.field("checkpoint", pa.string()),
        pa.field("slice", pa.string()),
        pa.field("comparison", pa.string()),
        pa.field("latent", pa.int64()),
        pa.field("kind", pa.string()),
        pa.field("ratio", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("density_before", pa.float64()),
        pa.field("density_now", pa.float64()),
        pa.field("documents_before", pa.int64()),
        pa.field("documents_now", pa.int64()),
        pa.field("p", pa.float64(), metadata={"about": "adjusted for all tests of the night"}),
    ]
)


def _changes(made: Sequence[Comparison]) -> pa.Table:
    rows = [
        {
            "checkpoint": each.planned.pair.checkpoint,
            "slice": each.planned.pair.slice,
            "comparison": each.planned.kind,
            **{name: getattr(change, name) for name in ("latent", "kind", "ratio", "low", "high")},
            "density_before": change.density[0],
            "density_now": change.density[1],
            "documents_before": change.documents[0],
            "documents_now": change.documents[1],
            "p": change.p,
        }
        for each in made
        for change in each.drift.latents
    ]
    return pa.Table.from_pylist(rows, schema=_CHANGES)
