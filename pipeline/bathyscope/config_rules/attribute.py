"""Rules of attribution graphs."""

from __future__ import annotations

from pathlib import Path

from bathyscope.config import Config
from bathyscope.config_rules.choices import one_of
from bathyscope.errors import ConfigError


def check(config: Config) -> None:
    """Raise `ConfigError` for shares that are none, and prompts that are neither text nor list."""
    settings = config.attribute
    for name in ("logit_probability", "row_share", "node_threshold", "edge_threshold"):
        value = getattr(settings, name)
        if not 0 <= value <= 1 or (name == "row_share" and value == 0):
            raise ConfigError(f"attribute.{name} is {value}. A share from 0 to 1 is wanted.")
    prompts = settings.prompts
    if not isinstance(prompts, str | list) or not all(isinstance(p, str) for p in prompts):
        raise ConfigError(
            f"attribute.prompts is {prompts!r}. A text, a list of texts or the path of a .jsonl "
            "file is wanted."
        )
    one_of("attribute.method", settings.method, ("exact", "atp", "atp_star", "ig"))
    one_of("attribute.metric", settings.metric, ("logit_difference", "log_probability", "kl"))
    one_of("attribute.align", settings.align, ("equal", "left", "right"))
    if settings.spool is not None and not Path(settings.spool).is_dir():
        raise ConfigError(
            f"attribute.spool is {settings.spool!r}, and there is no such folder. Make it, on a "
            "local disk with room for 8 bytes per edge, twice."
        )
    if prompts and settings.pairs is not None:
        raise ConfigError(
            "attribute.prompts and attribute.pairs are both set. Prompts become graphs, and pairs "
            "effects of nodes: give one of them."
        )
    least = settings.least_pearson
    if least is not None and not -1 <= least <= 1:
        raise ConfigError(f"attribute.least_pearson is {least}. A correlation is wanted.")
