"""What a finished study shows: its table, its results and its page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import xxhash

from bathyscope.evaluation.summary import without_nan
from bathyscope.pages.study import studies_page, study_page
from bathyscope.pages.study_data import StudyPage
from bathyscope.runs.run import STUDIES, Run
from bathyscope.runs.tables import to_parquet
from bathyscope.stores.manifests import COMPLETE, latest
from bathyscope.stores.objects import Objects
from bathyscope.values import Json


def put_study(
    objects: Objects,
    page: StudyPage,
    rows: Sequence[Mapping[str, Any]],
    failed: Mapping[str, str],
) -> Json:
    """Write table, results and page into the folder of a study; the manifest's facts.

    The page is the last file: a folder that has it is whole.
    """
    page = replace(page, failures=sorted(failed.items()))
    files = {
        "table": ("table.parquet", to_parquet(pa.Table.from_pylist(_alike(rows)))),
        "results": ("results.json", json.dumps(without_nan(asdict(page)), indent=1).encode()),
        "page": ("index.html", study_page(page).encode()),
    }
    facts: Json = {}
    for kind, (name, data) in files.items():
        objects.put(name, data, fsync=True)
        facts[f"{kind}_key"] = name
        facts[f"{kind}_digest"] = xxhash.xxh3_128_hexdigest(data)
    return facts


def put_index(run: Run) -> None:
    """Write the list of all studies of a run, with what each says, beside their folders."""
    studies = run.objects.at(STUDIES)
    found = []
    for name in sorted(studies.children()):
        manifest = latest(studies.at(name), state=COMPLETE)
        if manifest is not None and "page_key" in manifest.facts:
            page = page_of(run.study(name))
            href = f"{name}/{manifest.facts['page_key']}"
            found.append((page.name, page.title, page.answer, href))
    studies.put("index.html", studies_page(found).encode(), fsync=True)


def page_of(results: Json) -> StudyPage:
    """The page's values from the results that were stored."""
    return StudyPage.from_dict(results)


def _alike(rows: Sequence[Mapping[str, Any]]) -> list[Json]:
    """The same rows, each with every column that any of them has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in columns} for row in rows]
