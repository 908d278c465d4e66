"""What a finished ladder shows: a table of its models, their curves, and a page with both."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import xxhash

from bathyscope.pages.ladder import ladder_page
from bathyscope.runs.tables import from_parquet, to_parquet
from bathyscope.stores.manifests import every
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

WEIGHTS = "model.safetensors"
DEFINITIONS = {
    "parameters": "All parameters; embeddings are tied with the head and counted once.",
    "embedding_parameters": "Of these, token embeddings, and of gpt2 the table of positions.",
    "tokens": "Training tokens seen, until the last step or until the held-out loss got no better.",
    "tokens_per_parameter": "tokens / parameters.",
    "best_tokens": "Training tokens seen by the weights in final/.",
    "train_loss": "Mean cross-entropy in nats per token of final/, on as many training sequences "
    "as are held out, the first ones.",
    "held_out_loss": "The same on all held-out sequences. The step was chosen on a part of them.",
    "gap": "held_out_loss - train_loss.",
    "bits_per_byte": "Nats of all held-out targets / ln 2 / bytes of their text; a separator of "
    "documents costs nats and has no bytes.",
    "seconds": "Of training and of the measurements along it, over all tries of the model.",
}


def put_results(objects: Objects, names: Sequence[str]) -> Json:
    """Write table, curves and page of models into the ladder's folder; the manifest's facts."""
    rows: list[Json] = [json.loads(objects.get(f"{name}/results.json")) for name in names]
    rows.sort(key=lambda row: (row["family"], row["parameters"], row["seed"]))
    tables = {name: from_parquet(objects.get(f"{name}/curve.parquet")) for name in names}
    curves = pa.concat_tables(
        table.add_column(0, "name", pa.array([name] * len(table))) for name, table in tables.items()
    )
    results = {"definitions": DEFINITIONS, "models": rows}
    page = ladder_page(rows, {name: _points(table) for name, table in tables.items()})
    files = {
        "curves": ("curves.parquet", to_parquet(curves)),
        "results": ("results.json", json.dumps(results, indent=1).encode()),
        "page": ("index.html", page.encode()),
    }
    facts: Json = {"trained": len(rows)}
    for row in rows:
        facts[f"{row['name']}_key"] = f"{row['name']}/final/{WEIGHTS}"
        facts[f"{row['name']}_digest"] = row["weights_digest"]
    for kind, (name, data) in files.items():
        objects.put(name, data, fsync=True)
        facts[f"{kind}_key"] = name
        facts[f"{kind}_digest"] = xxhash.xxh3_128_hexdigest(data)
    return facts


def remove_others(objects: Objects, kept: Sequence[str]) -> None:
    """Remove folders of models that an earlier ladder trained here, and this one has not."""
    named = {name for manifest in every(objects) for name in manifest.facts.get("models", ())}
    for name in sorted(named - set(kept)):
        objects.delete_folder(name)
        objects.sweep(name)


def _points(curve: pa.Table) -> list[tuple[float, float, float]]:
    """(tokens, training loss, held-out loss) of every point."""
    columns = [curve.column(n).to_pylist() for n in ("tokens", "train_loss", "held_out_loss")]
    return list(zip(*columns, strict=True))
