"""What the values of a configuration may be, checked before anything is computed.

Each file has the rules of one noun; bounds of single numbers stand beside their fields.
"""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.config_rules import (
    attribute,
    bounds,
    cluster,
    data,
    dictionary,
    intervene,
    ladder,
    needed,
    nightly,
    study,
)
from bathyscope.config_rules.choices import one_of
from bathyscope.errors import ConfigError


def validate(config: Config, *, planned: bool = False) -> None:
    """Check every rule. Raises `ConfigError` that says which setting to change.

    What is only `planned` needs no commit of a hub's repository where the dimensions are given.
    """
    one_of("model.kind", config.model.kind, ("smollm2_135m", "folder", "hub", "module"))
    one_of("model.dtype", config.model.dtype, ("auto", "bfloat16", "float16", "float32"))
    one_of("model.attention", config.model.attention, ("sdpa", "eager"))
    needed.check(config, planned=planned)
    bounds.check(config)
    cluster.check(config)
    cluster.check_pipeline(config, planned=planned)
    data.check(config)
    dictionary.check(config)
    ladder.check(config)
    attribute.check(config)
    intervene.check(config)
    nightly.check(config)
    study.check(config)
    if not 0 <= config.verify.share <= 1:
        raise ConfigError(
            f"verify.share is {config.verify.share}. A share from 0 (sizes and receipts only) to 1 "
            "(every byte) is wanted."
        )
