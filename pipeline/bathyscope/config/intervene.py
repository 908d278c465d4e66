"""What `bathyscope intervene` changes in a model, and what it shows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bathyscope.config.option import not_negative, option, positive


@dataclass
class InterveneConfig:
    """What `bathyscope intervene` does; url is the run whose model it takes."""

    prompt: str | None = option(None, "text that the model reads and continues")
    dictionary: str | None = option(None, "dictionary of the latents; null: dictionary.name")
    latents: list[int] = option([], "numbers of latents that are changed together")
    change: str = option(
        "steer",
        "what is done: steer (adds decoder rows), clamp, scale, or to ablate: zero, mean, resample",
    )
    values: list[float] = option(
        [], "strengths to steer by, values to clamp to, or factors: a variant for each"
    )
    positions: Any = option(
        "all", "where: all, prompt, generated, or [0,-1], from the prompt's end where negative"
    )
    also: list[dict[str, Any]] = option(
        [],
        "more that every variant changes: {latent:7,clamp:2}, {layer:5,head:3,ablate:mean}, …",
    )
    tokens: int = not_negative(40, "tokens that are generated; 0 generates none")
    temperature: float = not_negative(
        0.0, "0 takes the most probable token, above it they are drawn"
    )
    seed: int = not_negative(0, "draws of tokens and of resampled rows")
    top: int = positive(5, "most probable next tokens that are shown")
    held_out_items: int = not_negative(
        4, "held-out sequences over which side effects are measured; 0 measures none"
    )
    reference_items: int = positive(
        8, "training sequences that means and resampled rows are taken from"
    )
    batch_items: int = positive(2, "sequences of a forward; bounds the memory of logits")
    to: str | None = option(None, "file for everything as JSON; null writes none")
