"""report: a static page about the run, from its artifacts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from bathyscope.config import Config
from bathyscope.models.tokenizers import load_tokenizer, token_strings
from bathyscope.pages.data import Example, Histogram, LatentPage
from bathyscope.pages.write import write_report
from bathyscope.runs.identity import digest
from bathyscope.runs.run import EVALUATIONS, FEATURES, Run, report_folder
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.inputs import model_folder
from bathyscope.stages.report_data import report_data
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.objects import Objects
from bathyscope.values import HELD_OUT, Json, Receipt, Unit, UnitPlan

NAME = "report"
SEMANTICS = 1
_BLOCK = 256


@dataclass
class Context:
    """The run, and the words of its model."""

    config: Config
    run: Run
    objects: Objects
    words: list[str]


def units(config: Config) -> Work:
    """One unit, identified by evaluation and features."""
    run, name = Run(config.url), config.dictionary.name
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "evaluation": digest(run.manifest(f"{EVALUATIONS}/{name}").identity),
        "features": digest(run.manifest(f"{FEATURES}/{name}").identity),
    }
    plan = UnitPlan((("all", 0, 1),), 1)
    folder = report_folder(name)
    return Work(NAME, folder, identity, plan, unit_name="pages", hint="Pass force=true.")


def open(config: Config, work: Work) -> Context:
    """The tokenizer's words: every token as it looks in text."""
    tokenizer = load_tokenizer(model_folder(config))
    words = token_strings(tokenizer, range(len(tokenizer)))
    return Context(config, Run(config.url), Objects(config.url).at(work.artifact), words)


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Write all pages."""
    name = context.config.dictionary.name
    total = int(context.run.manifest(f"{FEATURES}/{name}").facts["latents"])

    def watched() -> Iterator[LatentPage]:
        for number, page in enumerate(_pages(context, name)):
            if number % _BLOCK == 0:
                guard.check()
                guard.progress(number / total)
            yield page

    sizes = write_report(
        context.objects.put, report_data(context.config, context.run), latents=watched()
    )
    return Outcome(valid=1, figures={"files": len(sizes), "bytes": sum(sizes.values())})


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Publish the report."""
    facts = {**receipts[0].figures, "page": "index.html"}
    publish(begun, facts)
    return facts


def _pages(context: Context, name: str) -> Iterator[LatentPage]:
    """Latents in order, each with its examples; both tables are read in blocks."""
    latents = context.run.features(name)
    examples = context.run.examples(name)
    edges = context.run.manifest(f"{FEATURES}/{name}").facts["histogram_edges"]
    grouped = groupby(_rows(examples), key=lambda row: row["latent"])
    ahead = next(grouped, None)
    for row in _rows(latents):
        found: list[Example] = []
        if ahead is not None and ahead[0] == row["latent"]:
            found = [_example(context, example) for example in ahead[1]]
            ahead = next(grouped, None)
        yield _page(context, row, found, edges)


def _rows(table: Any) -> Iterator[Json]:
    for batch in table.to_batches(max_chunksize=_BLOCK):
        yield from batch.to_pylist()


def _page(context: Context, row: Json, examples: list[Example], edges: list[float]) -> LatentPage:
    return LatentPage(
        latent=row["latent"],
        density=row["density"],
        mean=row["mean"],
        max=row["max"],
        histogram=_histogram(edges, row["histogram"]),
        promoted=_tokens(context, row["promoted_ids"], row["promoted_values"]),
        suppressed=_tokens(context, row["suppressed_ids"], row["suppressed_values"]),
        examples=examples,
    )


def _histogram(edges: list[float], counts: list[int]) -> Histogram | None:
    """The bins from the first to the last that holds anything."""
    used = [i for i, count in enumerate(counts) if count]
    if not used:
        return None
    first, last = used[0], used[-1] + 1
    return Histogram(edges[first : last + 1], counts[first:last])


def _tokens(context: Context, ids: list[int], values: list[float]) -> list[tuple[str, float]]:
    return [(context.words[i], value) for i, value in zip(ids, values, strict=True)]


def _example(context: Context, row: Json) -> Example:
    return Example(
        band="top" if row["band"] == 0 else f"quantile {row['band']}",
        item=row["item"],
        position=row["position"],
        document=context.run.corpus.document_names[row["document"]],
        tokens=[context.words[i] for i in row["token_ids"]],
        activations=row["activations"],
        peak=row["position"] - row["window_start"],
        split="held out" if row["split"] == HELD_OUT else "train",
    )
