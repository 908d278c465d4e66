"""Rules of studies and of the families that they are about."""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.config_rules.choices import one_of
from bathyscope.errors import ConfigError


def check(config: Config) -> None:
    """Raise `ConfigError` for a family, a depth, sizes or shares that cannot be."""
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
    _check_removal(config)
    _check_graphs(config)
    _check_starts(config)
    if len(set(study.seeds)) < max(len(study.seeds), 1) or min(study.seeds, default=-1) < 0:
        raise ConfigError(
            f"study.seeds is {list(study.seeds)}. One or more different numbers from 0 on are "
            "wanted; two or more tell how stable dictionaries are."
        )


def _check_removal(config: Config) -> None:
    """What a study of wasted weights removes, and how much of it."""
    shares, bits = config.study.shares, config.study.bits
    if not shares or len(set(shares)) < len(shares) or not all(0 < s <= 1 for s in shares):
        raise ConfigError(
            f"study.shares is {list(shares)}. Different shares above 0 and up to 1 are wanted; "
            "0, the model as it is, is always measured."
        )
    if not bits or len(set(bits)) < len(bits) or not all(2 <= b <= 8 for b in bits):
        raise ConfigError(f"study.bits is {list(bits)}. Different numbers from 2 to 8 are wanted.")


def _check_graphs(config: Config) -> None:
    """How graphs of latents are made, and what they are held against."""
    study = config.study
    if study.false_edges >= 1:
        raise ConfigError(
            f"study.false_edges is {study.false_edges}. A share below 1 is wanted, such as 0.05."
        )
    if study.null_graphs < 2:
        raise ConfigError(
            f"study.null_graphs is {study.null_graphs}. At least 2 are wanted, and 20 or more to "
            "tell how far chance goes."
        )


def _check_starts(config: Config) -> None:
    """What a study of the second model fits its maps on."""
    given, most = config.study.map_tokens, config.study.start_tokens
    asked = config.study.name == "second_model"
    if not given or len(set(given)) < len(given) or min(given) < 3:
        raise ConfigError(
            f"study.map_tokens is {list(given)}. One or more different numbers from 3 on are "
            "wanted, and better several rows for each dimension of the models."
        )
    if asked and max(given) > config.study.train_tokens:
        raise ConfigError(
            f"study.map_tokens is {list(given)} and study.train_tokens is "
            f"{config.study.train_tokens}. A map cannot be fitted on more than is harvested."
        )
    if asked and most < 16 * config.study.batch_rows:
        raise ConfigError(
            f"study.start_tokens is {most} and study.batch_rows is {config.study.batch_rows}. At "
            "least sixteen steps are wanted: a sixteenth of them is the earliest loss to reach."
        )
