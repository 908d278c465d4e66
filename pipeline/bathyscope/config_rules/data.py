"""Rules of text and images."""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.config_rules.choices import ADDED_KINDS, IMAGE_KINDS, TEXT_KINDS, one_of
from bathyscope.errors import ConfigError


def check(config: Config) -> None:
    """Raise `ConfigError` for kinds and shares that cannot be, and for text of one kind twice."""
    one_of("data.kind", config.data.kind, (*TEXT_KINDS, *IMAGE_KINDS))
    one_of("data.token_dtype", config.data.token_dtype, ("uint16", "uint32", "int32"))
    _images(config)
    _added_text(config)
    if not 0 < config.data.held_out_share < 1:
        raise ConfigError(
            f"data.held_out_share is {config.data.held_out_share}. A share between 0 and 1 is "
            "wanted: every figure is reported on held-out documents."
        )
    if config.data.sequence_length < 3:
        raise ConfigError(
            f"data.sequence_length is {config.data.sequence_length}. At least 3 is wanted: "
            "position 0 is left out and the last position has no target."
        )


def _images(config: Config) -> None:
    for name, values in (
        ("model.image_mean", config.model.image_mean),
        ("model.image_std", config.model.image_std),
    ):
        if len(values) != 3 or (name.endswith("std") and min(values) <= 0):
            raise ConfigError(
                f"{name} is {values}. Three numbers are wanted, of red, green and blue, and "
                "deviations above 0."
            )
    extra = set(config.hooks.channels_last) - set(config.hooks.points)
    if extra:
        raise ConfigError(
            f"hooks.channels_last names {', '.join(sorted(extra))}, which hooks.points do not."
        )
    if config.model.kind == "module" and config.data.kind not in IMAGE_KINDS:
        raise ConfigError(
            f"model.kind is module, which has no tokenizer, and data.kind is {config.data.kind}. "
            f"Show it pictures: data={', data='.join(IMAGE_KINDS)}."
        )
    if config.cluster.replica == "pipeline" and config.data.kind in IMAGE_KINDS:
        raise ConfigError(
            "cluster.replica is pipeline, which passes on hidden states of token sequences, and "
            f"data.kind is {config.data.kind}. Take cluster.replica=accelerate."
        )


def _added_text(config: Config) -> None:
    data = config.data
    for kind in data.also:
        one_of("data.also", kind, ADDED_KINDS)
    kinds = [data.kind, *data.also]
    if len(set(kinds)) < len(kinds):
        raise ConfigError(
            f"data.kind is {data.kind} and data.also is {list(data.also)}. Name each corpus once."
        )
    if data.also and data.kind in ("tokens_bin", *IMAGE_KINDS):
        raise ConfigError(
            f"data.also adds text, and data.kind is {data.kind}, which has none. Leave data.also "
            "empty, or choose a kind of text."
        )
