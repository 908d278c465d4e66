"""Rules of a ladder."""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.config_rules.choices import one_of
from bathyscope.errors import ConfigError

_FAMILIES = ("gpt2", "llama")


def check(config: Config) -> None:
    """Raise `ConfigError` for families, a vocabulary or a schedule that cannot be."""
    one_of("ladder.dtype", config.ladder.dtype, ("float32", "bfloat16"))
    ladder = config.ladder
    if "mamba" in ladder.families:
        raise ConfigError(
            "ladder.families has 'mamba'. Its scan runs in transformers as a loop over positions "
            "unless CUDA kernels of another package are there: 520 tokens/s of 0.07 M parameters "
            f"on a core where llama makes 35,000. Families are {', '.join(_FAMILIES)}."
        )
    for family in ladder.families:
        one_of("ladder.families", family, _FAMILIES)
    if ladder.vocabulary <= 256:
        raise ConfigError(
            f"ladder.vocabulary is {ladder.vocabulary}. More than 256 is wanted: every byte is a "
            "token, and one more parts documents."
        )
    if ladder.warmup_share + ladder.decay_share > 1:
        raise ConfigError(
            "ladder.warmup_share and ladder.decay_share add up to more than 1. Make one smaller."
        )
