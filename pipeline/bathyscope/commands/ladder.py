"""ladder: small decoders of growing size, trained alike, as a family to study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bathyscope.commands.progress import Screen
from bathyscope.commands.run import Record, Step, carry_out
from bathyscope.commands.text_table import text_table
from bathyscope.config import Config
from bathyscope.pages.ladder import table_cells
from bathyscope.runs.run import LADDER, Run
from bathyscope.stages.ladder_models import models_of, num_steps
from bathyscope.values import Json

STAGES = ("ladder_tokenizer", "ladder_corpus", "ladder")


def ladder(
    config: Config,
    say: Callable[[str], None],
    *,
    resolved: Json | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Train the tokenizer, make the corpus, train every model, and print the table.

    Each goes on where it stopped. Raises `ConfigError` for models that cannot be built, before
    anything is read.
    """
    models = models_of(config)
    # Models of one ladder differ much in size: one that takes long is no straggler.
    cluster = replace(config.cluster, straggler_factor=1e6)
    config = replace(config, cluster=cluster)
    say(_plan(config))
    record = Record(config.url, resolved or {}, overrides, "ladder")
    steps = (Step(name, name, config) for name in STAGES)
    carry_out(config, steps, record=record, screen=Screen())
    run = Run(config.url)
    say(table(run.ladder["models"]))
    folder = f"{config.url.rstrip('/')}/{LADDER}"
    say(f"curves and plots: {folder}/{run.manifest(LADDER).facts['page_key']}")
    say(
        f"next: bathyscope run model=folder model.path={folder}/{models[-1].name}/final "
        f"hooks.points=[resid_post.{models[-1].rung.layers // 2}] url=runs/rung"
    )


def table(rows: Sequence[Json]) -> str:
    """The models as lines of text with aligned columns."""
    return text_table(table_cells(rows))


def _plan(config: Config) -> str:
    models, settings = models_of(config), config.ladder
    sizes = sorted({model.rung.parameters for model in models})
    per_step = settings.batch_items * config.data.sequence_length
    tokens = sorted({num_steps(config, model) * per_step for model in models})
    each = " to ".join(f"{n:,}" for n in dict.fromkeys([tokens[0], tokens[-1]])) + " tokens each"
    return (
        f"ladder     {len(models)} models: {', '.join(settings.families)} of "
        f"{', '.join(f'{size / 1e6:g}' for size in sizes)} M parameters, embeddings included, "
        f"seeds {', '.join(map(str, settings.seeds))}; {each}"
    )
