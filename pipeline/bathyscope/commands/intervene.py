"""intervene: latents, heads or modules of a run's model are changed, and what follows is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bathyscope.attribution.interventions.generation import Sampling
from bathyscope.commands.intervention_lines import lines_of
from bathyscope.commands.interventions import Options, Variants, intervene_on_run
from bathyscope.config import Config
from bathyscope.errors import ConfigError, MissingArtifact
from bathyscope.runs.run import Run
from bathyscope.stages.recorded import with_given_model
from bathyscope.values import Json

_VALUED = ("steer", "clamp", "scale")


def intervene(config: Config, say: Callable[[str], None], *, overrides: Sequence[str]) -> None:
    """Change the model of the run at `config.url` and print what it does.

    The model is that of the run's record, with the settings of `model` that `overrides` name in
    its place. Raises what `intervene_on_run` raises, and `ConfigError` for settings that are
    missing or a file that cannot be written.
    """
    settings = config.intervene
    if settings.prompt is None:
        raise ConfigError(
            "intervene.prompt is not set. Give a text: bathyscope intervene RUN "
            "intervene.prompt='The sea' intervene.latents=[412] intervene.values=[20]"
        )
    name = settings.dictionary or config.dictionary.name
    variants = _variants(config)
    _check_writable(settings.to)
    run = Run.open(config.url)
    options = Options(
        dictionary=name,
        tokens=settings.tokens,
        sampling=Sampling(settings.temperature, settings.seed),
        top=settings.top,
        held_out_items=settings.held_out_items,
        reference_items=settings.reference_items,
        batch_items=settings.batch_items,
    )
    model = with_given_model(config, run, overrides)
    report = intervene_on_run(run, settings.prompt, variants, options, config=model, say=say)
    for line in lines_of(report, _facts(run, name, settings.latents)):
        say(line)
    if settings.to is not None:
        Path(settings.to).write_text(
            json.dumps(report.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8"
        )
        say(f"\nwritten    {settings.to}")


def _variants(config: Config) -> Variants:
    """The sets of interventions, by name. Raises `ConfigError` where nothing is changed."""
    settings = config.intervene
    also = [dict(words) for words in settings.also]
    if not settings.latents:
        if not also or settings.values:
            raise ConfigError(
                "Nothing is changed: set intervene.latents (with intervene.values), or "
                "intervene.also, such as intervene.also='[{layer:5,head:3,ablate:zero}]'."
            )
        return {"changed": also}
    shared: Json = {"latent": list(settings.latents), "positions": settings.positions}
    if settings.change not in _VALUED:
        if settings.values:
            raise ConfigError(
                f"intervene.values is {settings.values}, but intervene.change is "
                f"{settings.change}, which takes none. Leave the values out."
            )
        words = {**shared, "ablate": settings.change}
        if settings.change == "resample":
            words["seed"] = settings.seed
        return {settings.change: [words, *also]}
    if not settings.values:
        raise ConfigError(
            f"intervene.change is {settings.change}, which needs a number: set intervene.values, "
            "such as intervene.values=[10,20,40]; a latent's largest activation is a scale."
        )
    return {
        f"{settings.change} {value:g}": [{**shared, settings.change: value}, *also]
        for value in settings.values
    }


def _check_writable(to: str | None) -> None:
    if to is not None and not Path(to).absolute().parent.is_dir():
        raise ConfigError(f"intervene.to is {to}, but there is no folder to put it into.")


def _facts(run: Run, name: str, latents: Sequence[int]) -> dict[int, Json]:
    """What the run's descriptions say of latents; nothing where it has none."""
    try:
        table: Any = run.features(name)
    except MissingArtifact:
        return {}
    return {latent: table.slice(latent, 1).to_pylist()[0] for latent in latents}
