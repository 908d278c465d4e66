"""attribute: a graph for each prompt, a table of them, and whether they can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bathyscope.commands.progress import Screen
from bathyscope.commands.run import Record, Step, carry_out
from bathyscope.commands.text_table import text_table
from bathyscope.config import Config
from bathyscope.runs.run import ATTRIBUTIONS, GRAPHS, Run
from bathyscope.runs.work import is_complete
from bathyscope.stages import attribute as stage
from bathyscope.stages.attribute import names_of
from bathyscope.stages.attribute_pairs import names_of_nodes
from bathyscope.stages.pairs import read_pairs
from bathyscope.stages.prompts import read_prompts
from bathyscope.stages.recorded import with_given_model
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

_TEXT = 28


def attribute(
    config: Config,
    say: Callable[[str], None],
    *,
    resolved: Json | None = None,
    overrides: Sequence[str] = (),
) -> bool:
    """Make the graphs and print their figures; whether every bound of the settings holds.

    Model and hook points are those of the run's record, with the settings of `model` that
    `overrides` name in their place. Raises `ConfigError` and `IdentityMismatch` before the model
    is loaded.
    """
    run = Run.open(config.url)
    recorded: Json = run.record["config"]
    config = replace(
        with_given_model(config, run, overrides),
        force=config.force,
        attribute=config.attribute,
        cluster=config.cluster,
    )
    # The record of a run says how it was made: of this command it gets its own settings alone.
    record = Record(config.url, {**recorded, "attribute": resolved}, overrides, "attribute")
    if config.attribute.pairs is not None:
        return _pairs(config, record, say)
    return _graphs(config, record, say)


def _graphs(config: Config, record: Record, say: Callable[[str], None]) -> bool:
    prompts, names = read_prompts(config), names_of(config, Run(config.url))
    longest = max(len(prompt.tokens) for prompt in prompts)
    shown = ", ".join(names[:4]) + (f" … {names[-1]}" if len(names) > 4 else "")
    say(f"attribute  {len(prompts)} prompts of up to {longest} tokens with {shown}")
    steps = [Step("attribute", "attribute", config)]
    done = is_complete(Objects(config.url), stage.units(config), force=config.force)
    if config.attribute.parts > 1 and not done:
        steps.insert(0, Step("rows", "attribute_rows", config))
    carry_out(config, steps, record=record, screen=Screen())
    run = Run(config.url)
    rows = run.graphs(config.attribute.name)["prompts"]
    say(table(rows))
    artifact = f"{GRAPHS}/{config.attribute.name}"
    folder = run.manifest(artifact).facts["files_folder"]
    say(f"pages: {config.url.rstrip('/')}/{artifact}/{folder}/pages/{rows[0]['slug']}.html")
    return _held(config, rows, "prompt", say)


def _pairs(config: Config, record: Record, say: Callable[[str], None]) -> bool:
    settings = config.attribute
    say(
        f"attribute  {len(read_pairs(config))} pairs, {settings.method} of {settings.metric} over "
        f"{', '.join(settings.nodes)}"
    )
    step = Step("attribute", "attribute_pairs", config)
    carry_out(config, [step], record=record, screen=Screen())
    rows = Run(config.url).attributions(settings.name)["pairs"]
    say(table_of_pairs(rows))
    say(f"tables: {config.url.rstrip('/')}/{ATTRIBUTIONS}/{settings.name}")
    return _held(config, rows, "pair", say)


def _held(config: Config, rows: Sequence[Json], name: str, say: Callable[[str], None]) -> bool:
    broken = broken_bounds(config, rows, name)
    for line in broken:
        say(line)
    return not broken


def table_of_pairs(rows: Sequence[Json]) -> str:
    """The metric of each pair, what agrees with exact patching, and its first nodes."""
    head = ["pair", "prompt", "clean", "corrupted", "nodes", "Pearson", "Spearman", "recall",
            "first nodes"]  # fmt: skip
    cells = [head]
    for row in rows:
        trust = row["trust"]
        recall = next(value for key, value in trust.items() if key.endswith("_recall"))
        cells.append(
            [
                str(row["pair"]),
                _cut(row["clean"]),
                f"{row['metric_clean']:.2f}",
                f"{row['metric_corrupted']:.2f}",
                f"{row['nodes']:,}",
                _number(trust["pearson"], ".2f"),
                _number(trust["spearman"], ".2f"),
                _number(recall, ".2f"),
                ", ".join(names_of_nodes(row["top"][:3])),
            ]
        )
    return text_table(cells)


def table(rows: Sequence[Json]) -> str:
    """The figures of each prompt as lines of text with aligned columns."""
    head = ["prompt", "tokens", "latents", "kept", "replacement", "complete", "pruned", "missing",
            "frozen", "Pearson", "Spearman", "s"]  # fmt: skip
    cells = [head]
    for row in rows:
        trust = row.get("trust") or {}
        logits = trust.get("logits") or {}
        cells.append(
            [
                _cut(row["text"]),
                str(row["tokens"]),
                f"{row['latents']:,}",
                f"{row['kept_latents']:,}",
                _share(row["replacement"]),
                _share(row["completeness"]),
                _share(row["pruned"]["replacement"]),
                f"{row['missing']:.0e}",
                _number(trust.get("frozen_error"), ".0e"),
                _number(logits.get("pearson"), ".2f"),
                _number(logits.get("spearman"), ".2f"),
                f"{row['seconds']:.0f}",
            ]
        )
    return text_table(cells)


def broken_bounds(config: Config, rows: Sequence[Json], name: str = "prompt") -> list[str]:
    """A line for each prompt or pair and bound of the settings that it breaks."""
    settings = config.attribute
    found = []
    for row in rows:
        trust = row.get("trust")
        if trust is None:
            continue
        frozen, pearson = trust.get("frozen_error", 0.0), trust.get("logits", trust)["pearson"]
        if frozen is None or frozen > settings.most_frozen_error:
            found.append(
                f"BROKEN {row[name]}: edges and the frozen model differ by "
                f"{_number(frozen, '.2g')}, and "
                f"attribute.most_frozen_error is {settings.most_frozen_error:g}. The graph is not "
                "what it claims to be."
            )
        least = settings.least_pearson
        if least is not None and (pearson is None or pearson < least):
            found.append(
                f"BROKEN {row[name]}: expected and real changes correlate with "
                f"{_number(pearson, '.2f')}, and attribute.least_pearson is {least:g}."
            )
    return found


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _TEXT else f"…{text[1 - _TEXT :]}"


def _share(value: float | None) -> str:
    return _number(value, ".3f")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
