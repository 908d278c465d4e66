"""Bathyscope looks inside large neural networks.

`bathyscope.open(url)` opens a run, `bathyscope.intervene(run, …)` changes its model while it runs.
Importing this package imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from bathyscope.attribution.interventions.intervention import Intervention
    from bathyscope.attribution.interventions.report import Report
    from bathyscope.runs.run import Run

__version__ = "0.1.0"
__all__ = ["__version__", "intervene", "open"]


def open(url: str) -> Run:
    """Open a run folder by path or URL.

    Raises `MissingArtifact` when nothing is there and `FormatVersionError` when a newer
    version wrote it.
    """
    from bathyscope.runs.run import Run

    return Run.open(url)


def intervene(
    run: Run,
    prompt: str,
    interventions: Sequence[Intervention | Mapping[str, Any]]
    | Mapping[str, Sequence[Intervention | Mapping[str, Any]]],
    *,
    dictionary: str = "main",
    tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    top: int = 5,
    held_out_items: int = 0,
    reference_items: int = 8,
    batch_items: int = 2,
) -> Report:
    """What interventions on the model of a run do to a prompt and to its continuation.

    An intervention is words such as `{"latent": 412, "steer": 8}`, or an `Intervention`; several
    variants are a mapping, name -> list. `dictionary` is that of latents whose words name none.
    `tokens` are generated, greedily at temperature 0. Side effects are measured on so many held-out
    sequences of the run; means and resampled rows come from so many training sequences. Raises,
    before weights are loaded, `ConfigError`, `HookPointError`, `MissingArtifact` and `ModelError`
    for what does not fit, and `NonFiniteError` for logits that overflow.
    """
    from collections.abc import Mapping

    from bathyscope.attribution.interventions.generation import Sampling
    from bathyscope.commands.interventions import Options, intervene_on_run

    several = isinstance(interventions, Mapping)
    variants: Any = interventions if several else {"changed": interventions}
    options = Options(
        dictionary,
        tokens,
        Sampling(temperature, seed),
        top,
        held_out_items,
        reference_items,
        batch_items,
    )
    return intervene_on_run(run, prompt, variants, options)
