"""What `bathyscope nightly` watches, what it compares, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.config.option import not_negative, option, positive


@dataclass
class NightlyConfig:
    """What `bathyscope nightly` watches, what it compares, and what it keeps.

    The text that is watched is `data`, of a kind that reads files; the dictionary is that of
    `dictionary.run`.
    """

    checkpoints: list[str] = option(
        [], "watched folders: each folder in them that holds a model is a checkpoint"
    )
    revisions: list[str] = option(
        [], "commits of model.repo, each a checkpoint, the newest last (kind hub)"
    )
    settle_s: float = not_negative(
        60.0, "a file or checkpoint that changed later than so many seconds ago waits a night"
    )
    newest: int = positive(1, "checkpoints, the newest ones, that read new text")
    backfill: int = not_negative(
        1, "slices of earlier text, the newest, that a new checkpoint reads; 0 takes all"
    )
    baseline: int = positive(7, "earlier slices, the newest, that new text is compared with")
    error: float = positive(
        1e-4, "family-wise error of a night: how likely anything is raised when nothing changed"
    )
    least_ratio: float = positive(
        1.5, "densities and activations that changed by less than this factor are not raised"
    )
    examples: int = positive(4, "examples shown of a latent that changed, before and after")
    shown: int = positive(50, "latents that the report shows, the largest changes")
    keep_latents: str = option(
        "none", "latents of rows that stay once they are counted: none, sample or all"
    )
    sample_share: float = option(0.01, "share of the units whose latents stay (sample)")
    keep_nights: int = not_negative(
        0, "nights whose text, extractions and reports stay, the last ones; 0 keeps all"
    )
    keep_activations: bool = option(False, "keep activations once they are encoded")
    command: str | None = option(
        None, "program that is started after each night with something new, its report as argument"
    )
    command_timeout_s: float = positive(600.0, "after which that program is stopped")
    lease_s: float = positive(600.0, "seconds after which a night that fell silent may be taken up")
