"""Rules of studies and of the families that they are about."""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.config_rules.choices import one_of
from bathyscope.errors import ConfigError


def check(config: Config) -> None:
    """Raise `ConfigError` for a family, a depth or sizes of dictionaries that cannot be."""
    one_of("family.kind", config.family.kind, ("ladder", "members"))
    study = config.study
    if study.depth > 1:
        raise ConfigError(
            f"study.depth is {study.depth}. A share of the blocks, up to 1, is wanted."
        )
    for name in ("expansions", "k_shares", "widths", "ks"):
        values = getattr(study, name)
        if not values or min(values) <= 0:
            raise ConfigError(f"study.{name} is {list(values)}. Numbers above 0 are wanted.")
    if max(study.k_shares) > 1:
        raise ConfigError(
            f"study.k_shares is {list(study.k_shares)}. Shares of the dimensions, up to 1, are "
            "wanted."
        )
    if max(study.ks) > min(study.widths):
        raise ConfigError(
            f"study.ks is {list(study.ks)} and study.widths is {list(study.widths)}. An L0 above "
            "the number of latents cannot be."
        )
    if len(set(study.seeds)) < max(len(study.seeds), 1) or min(study.seeds, default=-1) < 0:
        raise ConfigError(
            f"study.seeds is {list(study.seeds)}. One or more different numbers from 0 on are "
            "wanted; two or more tell how stable dictionaries are."
        )
