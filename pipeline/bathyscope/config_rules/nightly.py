"""Rules of what `bathyscope nightly` watches and keeps."""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.config_rules.choices import one_of
from bathyscope.errors import ConfigError


def check(config: Config) -> None:
    """Raise `ConfigError` for shares, errors and floors that cannot be."""
    nightly = config.nightly
    one_of("nightly.keep_latents", nightly.keep_latents, ("none", "sample", "all"))
    if not 0 < nightly.sample_share <= 1:
        raise ConfigError(
            f"nightly.sample_share is {nightly.sample_share}. A share above 0 and up to 1 is "
            "wanted; nightly.keep_latents=none keeps nothing."
        )
    if nightly.error >= 1:
        raise ConfigError(
            f"nightly.error is {nightly.error}. A probability below 1 is wanted, such as 1e-4."
        )
    if nightly.least_ratio < 1:
        raise ConfigError(
            f"nightly.least_ratio is {nightly.least_ratio}. A factor of at least 1 is wanted: it "
            "holds for changes up and down."
        )
    least = max(nightly.baseline, nightly.backfill) + 1
    if nightly.keep_nights and nightly.keep_nights < least:
        raise ConfigError(
            f"nightly.keep_nights is {nightly.keep_nights}, and new text is compared with "
            f"{nightly.baseline} earlier slices (nightly.baseline), of which a new checkpoint "
            f"reads {nightly.backfill} (nightly.backfill). At least {least} is wanted, or 0 for "
            "all."
        )
    if nightly.revisions and config.model.kind != "hub":
        raise ConfigError(
            f"nightly.revisions are commits of model.repo, and model.kind is {config.model.kind}. "
            "Set model=hub, or watch folders with nightly.checkpoints."
        )
