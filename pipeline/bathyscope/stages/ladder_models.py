"""The models of a ladder by number: what each is called, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.models.rungs import Rung, mlp_width, num_embedding_parameters, num_parameters
from bathyscope.training.language import LanguagePlan, log_spaced

_RUNG_KEYS = ("parameters", "width", "layers", "heads")
_LR_WIDTH = 64


@dataclass(frozen=True)
class LadderModel:
    """One model of a ladder."""

    family: str
    rung: Rung
    seed: int
    parameters: int
    """Embeddings included, counted once."""
    embedding_parameters: int

    @property
    def name(self) -> str:
        """Its folder: gpt2-0.34M-seed0, by the parameters that were asked for."""
        return f"{self.family}-{self.rung.parameters / 1e6:g}M-seed{self.seed}"


def models_of(config: Config) -> list[LadderModel]:
    """Every model of the ladder, in the order in which they are trained.

    One seed after the other, from the smallest rung to the largest, so that a ladder that is
    stopped has whole families. Raises `ConfigError` for what cannot be built.
    """
    settings = config.ladder
    rungs = sorted(map(_rung, settings.rungs), key=lambda rung: rung.parameters)
    sizes = {"vocabulary": settings.vocabulary, "context": config.data.sequence_length}
    for family in settings.families:
        for rung in rungs:
            mlp_width(family, rung, **sizes)
    found = [
        LadderModel(
            family,
            rung,
            seed,
            num_parameters(family, rung, **sizes),
            num_embedding_parameters(family, rung, **sizes),
        )
        for seed in settings.seeds
        for rung in rungs
        for family in settings.families
    ]
    names = [model.name for model in found]
    if not found or len(set(names)) < len(names):
        raise ConfigError(
            f"ladder.families are {settings.families}, ladder.seeds are {settings.seeds}, and "
            f"ladder.rungs have {[rung.parameters for rung in rungs]} parameters. At least one of "
            "each is wanted, and none twice: choose ladder=cpu or ladder=gpu."
        )
    return found


def plan_of(config: Config, model: LadderModel) -> LanguagePlan:
    """How that model is trained."""
    settings = config.ladder
    steps = num_steps(config, model)
    equal = [round(n * steps / settings.evaluations) for n in range(1, settings.evaluations + 1)]
    return LanguagePlan(
        num_steps=steps,
        lr=settings.lr * (_LR_WIDTH / model.rung.width) ** settings.lr_power,
        warmup_share=settings.warmup_share,
        decay_share=settings.decay_share,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        evaluated=frozenset({*log_spaced(settings.evaluations, steps), *equal} - {0}),
        saved=frozenset({0, *log_spaced(settings.checkpoints, steps)}),
        patience=settings.patience,
        bfloat16=settings.dtype == "bfloat16",
    )


def num_steps(config: Config, model: LadderModel) -> int:
    """Whole steps in the tokens that a model sees; the nearest number to a ratio.

    Raises `ConfigError` where a ratio asks for more than `ladder.tokens`.
    """
    settings = config.ladder
    per_step = settings.batch_items * config.data.sequence_length
    if not settings.tokens_per_parameter:
        return settings.tokens // per_step
    wanted = settings.tokens_per_parameter * model.parameters
    if wanted > settings.tokens:
        raise ConfigError(
            f"ladder.tokens_per_parameter={settings.tokens_per_parameter:g} asks for "
            f"{wanted:,.0f} tokens of {model.name}, and ladder.tokens allows {settings.tokens:,}. "
            f"Ask for {settings.tokens / model.parameters:.3g} at most, or allow more tokens."
        )
    return round(wanted / per_step)


def _rung(given: dict[str, int]) -> Rung:
    if set(given) != set(_RUNG_KEYS):
        raise ConfigError(
            f"A rung of ladder.rungs is {dict(given)}. It has to have {', '.join(_RUNG_KEYS)}, and "
            "nothing else."
        )
    if min(given.values()) < 1:
        raise ConfigError(f"A rung of ladder.rungs is {dict(given)}. Numbers above 0 are wanted.")
    return Rung(**given)
