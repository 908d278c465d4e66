"""fine_tune: a trained dictionary goes on a little, its loss through the model.

One unit that reads a dictionary of the run and publishes another beside it; an interrupted one goes
on from its last checkpoint. What it did to held-out documents is measured at the end, before and
after on the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.runs.identity import digest
from bathyscope.runs.run import DICTIONARIES, Run
from bathyscope.runs.work import Begun, Work
from bathyscope.stages.dictionary_files import publish, put_aside
from bathyscope.stages.fine_tuning import Context, compared, tune
from bathyscope.stages.hook_columns import hook_columns
from bathyscope.stages.spliced import forward_of
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.objects import Objects
from bathyscope.training.fine_tune import ACTIVATIONS
from bathyscope.values import Json, Receipt, Unit, UnitPlan

NAME = "fine_tune"
SEMANTICS = 1


def result_name(config: Config) -> str:
    """The name of the dictionary that is made."""
    return config.fine_tune.name or f"{config.dictionary.name}_{config.fine_tune.loss}"


def units(config: Config) -> Work:
    """One unit, identified by the dictionary, the model's precision and the settings.

    Raises `ConfigError` for a dictionary of another kind or hook point, and for a name that is
    taken by the dictionary itself.
    """
    run, source = Run(config.url), config.dictionary.name
    if result_name(config) == source:
        raise ConfigError(
            f"fine_tune.name is {source!r}, the dictionary itself. Choose another: both are kept."
        )
    folder, facts = f"{DICTIONARIES}/{source}", run.manifest(f"{DICTIONARIES}/{source}").facts
    described = json.loads(run.objects.at(folder).get(facts["config_key"]))
    _check(described, config)
    rows = run.activations[config.hook]
    # The name says nothing of what comes out.
    settings = {key: value for key, value in vars(config.fine_tune).items() if key != "name"}
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "activations": digest(rows.identity),
        "fine_tuned_from": {"name": source, "weights": facts["weights_digest"]},
        "hook": config.hook,
        "dtype": rows.facts["dtype"],
        "fine_tune": settings,
        "forward_items": config.evaluate.batch_items,
        "decoder_norm": config.train.decoder_norm,
        "l0_weight": config.train.l0_weight,
        "l1_weight": config.train.l1_weight,
    }
    return Work(
        NAME,
        f"{DICTIONARIES}/{result_name(config)}",
        identity,
        UnitPlan((("all", 0, 1),), 1),
        unit_name="fine-tunings",
        hint="Choose another fine_tune.name to keep both, or pass force=true to replace it.",
    )


def _check(described: Json, config: Config) -> None:
    kind, activation = described["kind"], described["activation"]
    if kind != "autoencoder" or activation not in ACTIVATIONS:
        raise ConfigError(
            f"dictionary.name is {config.dictionary.name!r}, a {activation} {kind}. Fine-tuned "
            f"through the model are autoencoders of {', '.join(ACTIVATIONS)}."
        )
    hook = described["inputs"][0]["hook_point"]
    if hook != config.hook:
        raise ConfigError(
            f"The dictionary {config.dictionary.name!r} reads {hook!r}, and the settings say "
            f"{config.hook!r}. Pass dictionary.hook={hook}."
        )


def open(config: Config, work: Work) -> Context:
    """The dictionary, the readers of its hook point, and the model behind it."""
    run = Run(config.url)
    forward, device = forward_of(config)
    curve = run.curve(config.dictionary.name).column("sparsity").to_pylist()[-5:]
    return Context(
        config=config,
        columns=hook_columns(config, run),
        before=run.dictionaries[config.dictionary.name].to(device),
        sparsity=sum(curve) / len(curve),
        forward=forward,
        device=device,
        objects=Objects(config.url).at(work.artifact),
        segment=work.segment.name,
    )


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Fine-tune, fold the scales in, write the files aside, and measure both on held-out items."""
    config = context.config
    tuned = tune(context, guard)
    guard.check()
    figures = put_aside(
        tuned.trained,
        context.columns,
        order_seed=config.train.order_seed,
        objects=context.objects,
        segment=context.segment,
        beside={f"model_{config.fine_tune.loss}": tuned.model_losses},
    )
    both = {"before": context.before, "after": tuned.trained.dictionary}
    figures["fine_tune"] = {
        "source": config.dictionary.name,
        "steps": tuned.steps,
        "tokens": tuned.tokens,
        "held_out": compared(context, both, guard),
    }
    return Outcome(valid=1, figures=figures)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Put the files in their place and publish the dictionary."""
    return publish(begun, receipts)
