"""What must be set."""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.config_rules.choices import FILE_KINDS, IMAGE_KINDS
from bathyscope.errors import ConfigError


def check(config: Config, *, planned: bool) -> None:
    """Raise `ConfigError` for a setting that is missing and that this configuration needs."""
    # A family and watched folders name their models themselves.
    family, nightly = config.family, config.nightly
    alone = not (family.run or family.members or nightly.checkpoints)
    from_hub = config.model.kind == "hub" and not (planned and config.model.architecture)
    for name, wanted, value in (
        ("model.path", alone and config.model.kind == "folder", config.model.path),
        ("model.repo", alone and config.model.kind == "hub", config.model.repo),
        ("model.revision", alone and from_hub and not nightly.revisions, config.model.revision),
        ("model.factory", alone and config.model.kind == "module", config.model.factory),
        ("model.weights", alone and config.model.kind == "module", config.model.weights),
        ("data.paths", config.data.kind in (*FILE_KINDS, *IMAGE_KINDS), config.data.paths),
        ("data.dataset", config.data.kind == "hf", config.data.dataset),
        ("cluster.address", config.cluster.kind == "address", config.cluster.address),
        ("hooks.points", True, config.hooks.points),
        ("url", True, config.url),
    ):
        if wanted and not value:
            raise ConfigError(f"{name} is not set, but this configuration needs it.")
