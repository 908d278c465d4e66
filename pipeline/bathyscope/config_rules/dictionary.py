"""Rules of dictionaries and of their training."""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.config import Config
from bathyscope.config.ranges import collapsed
from bathyscope.config_rules.choices import one_of
from bathyscope.errors import ConfigError

_DICTIONARIES = (
    "autoencoder",
    "transcoder",
    "skip_transcoder",
    "crosscoder",
    "cross_layer_transcoder",
)
_ACTIVATIONS = ("topk", "batch_topk", "jumprelu", "relu", "gated")


def check(config: Config) -> None:
    """Raise `ConfigError` for a dictionary or a training that cannot be."""
    one_of("dictionary.kind", config.dictionary.kind, _DICTIONARIES)
    one_of("dictionary.activation", config.dictionary.activation, _ACTIVATIONS)
    one_of("train.decoder_norm", config.train.decoder_norm, ("unit", "free"))
    one_of("logging.kind", config.logging.kind, ("tensorboard", "wandb", "none"))
    one_of("logging.mode", config.logging.mode, ("online", "offline"))
    one_of("fine_tune.loss", config.fine_tune.loss, ("kl", "ce"))
    one_of("store.codec", config.store.codec, ("none", "zstd_bitshuffle", "int8", "fp8"))
    _hook(config)
    _processes(config)
    _stream(config)
    _length(config)
    _revival(config)
    if not 0 <= config.fine_tune.reconstruction_share < 1:
        raise ConfigError(
            f"fine_tune.reconstruction_share is {config.fine_tune.reconstruction_share}. A share "
            "from 0 (the model's loss alone) to below 1 (ordinary training) is wanted."
        )
    if config.train.warmup_share + config.train.decay_share > 1:
        raise ConfigError(
            "train.warmup_share and train.decay_share add up to more than 1. Make one smaller."
        )


def _hook(config: Config) -> None:
    points, chosen = config.hooks.points, config.dictionary
    if chosen.hook is not None and chosen.inputs:
        raise ConfigError(
            f"dictionary.hook is {chosen.hook!r} and dictionary.inputs are {chosen.inputs}. Set "
            "one of them: hook where the dictionary reads one hook point."
        )
    named = [chosen.hook] if chosen.hook is not None else chosen.inputs
    _names("hook" if chosen.hook else "inputs", named, points)
    _names("outputs", chosen.outputs, points)
    if chosen.layer is not None:
        _layer(config)
        return
    if not named and len(points) > 1:
        raise ConfigError(
            f"hooks.points are {collapsed(points)}: say which of them the dictionary reads with "
            "dictionary.hook, with dictionary.inputs, or of a transcoder with dictionary.layer."
        )


def _names(setting: str, names: Sequence[str], points: Sequence[str]) -> None:
    for name in names:
        if name not in points:
            raise ConfigError(
                f"dictionary.{setting} has {name!r}, but hooks.points are {collapsed(points)}. Add "
                "it there, or choose one of them."
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"dictionary.{setting} are {list(names)}: name each hook point once.")


def _layer(config: Config) -> None:
    chosen = config.dictionary
    if chosen.kind not in ("transcoder", "skip_transcoder"):
        raise ConfigError(
            f"dictionary.layer is {chosen.layer}, and dictionary.kind is {chosen.kind}. A layer is "
            "that of a transcoder: choose dictionary=transcoder, or set dictionary.hook."
        )
    if chosen.hook is not None or chosen.inputs or chosen.outputs:
        raise ConfigError(
            f"dictionary.layer is {chosen.layer}, which says what is read and written, and "
            "dictionary.hook, inputs or outputs are set as well. Set one of them."
        )
    _names("layer", [*config.inputs, *config.outputs], config.hooks.points)


def _processes(config: Config) -> None:
    processes, latents = config.train.processes, config.train.latent_parallel
    if processes % latents:
        raise ConfigError(
            f"train.processes is {processes} and train.latent_parallel is {latents}. Processes "
            "come in whole sets that hold all latents together: wanted a multiple."
        )
    if processes > 1 and config.cluster.kind == "inline":
        raise ConfigError(
            f"train.processes is {processes}, but cluster.kind is inline: this process alone. "
            "Choose cluster=local or cluster=address."
        )
    if config.train.batch_rows % (processes // latents):
        raise ConfigError(
            f"train.batch_rows is {config.train.batch_rows}, which {processes // latents} "
            "processes cannot split evenly. Choose a multiple."
        )


def _stream(config: Config) -> None:
    if config.store.limit_bytes and config.train.epochs != 1:
        raise ConfigError(
            f"store.limit_bytes is {config.store.limit_bytes} and train.epochs is "
            f"{config.train.epochs}. What a stream has passed is deleted: wanted train.epochs=1, "
            "and more data.train_tokens instead."
        )
    if config.store.limit_bytes and config.train.tokens:
        raise ConfigError(
            f"store.limit_bytes is {config.store.limit_bytes} and train.tokens is "
            f"{config.train.tokens:,}. A stream ends with its text: set data.train_tokens, and "
            "train.tokens=0."
        )


def _length(config: Config) -> None:
    if 0 < config.train.tokens < config.train.batch_rows:
        raise ConfigError(
            f"train.tokens is {config.train.tokens:,}, less than one step of "
            f"train.batch_rows={config.train.batch_rows:,}. Give more tokens, or smaller steps."
        )


def _revival(config: Config) -> None:
    if any(step < 1 for step in config.train.resample_steps):
        raise ConfigError(
            f"train.resample_steps are {list(config.train.resample_steps)}. Numbers of steps from "
            "1 on are wanted, after which dead latents start anew."
        )
    weight, activation = config.train.preact_weight, config.dictionary.activation
    if weight and activation != "jumprelu":
        raise ConfigError(
            f"train.preact_weight is {weight}, and latents of {activation} have no thresholds of "
            "their own. Set it to 0, or choose dictionary.activation=jumprelu."
        )
