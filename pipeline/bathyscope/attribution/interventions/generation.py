"""Generation with interventions: greedy or sampled, with a key-value cache or without.

With a cache, keys and values of a position are computed once, with the interventions of that
position; later positions read them. Without a cache the same positions are computed anew in every
step, with the same interventions, so both ways give the same tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bathyscope.attribution.interventions.checks import check_length
from bathyscope.attribution.interventions.inputs import to_model
from bathyscope.attribution.interventions.intervention import Intervention
from bathyscope.attribution.interventions.splice import intervened
from bathyscope.errors import ConfigError
from bathyscope.metrics.finite import require_finite
from bathyscope.models.families import family_of


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the most probable, or drawn at a temperature."""

    temperature: float = 0.0
    """0 takes the most probable token."""
    seed: int = 0
    """Draws are the same with and without interventions, so that differences come from these."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"The temperature is {self.temperature}; 0 takes the most probable token, a "
                "positive number draws."
            )


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt: Tensor,
    interventions: Sequence[Intervention] = (),
    *,
    tokens: int,
    sampling: Sampling | None = None,
    stop: Collection[int] = (),
    cache: bool = True,
) -> list[int]:
    """The tokens that come after a prompt int64 [positions], at most `tokens` of them.

    One of `stop` ends it and is not given back. The first new token is predicted at the prompt's
    last position: interventions at generated positions change what comes after it. Models whose
    blocks are mixers, without attention, run without a cache. Raises what `check_interventions`
    and `check_length` raise, and `NonFiniteError` for logits that are not finite.
    """
    check_length(model, len(prompt), tokens)
    family = family_of(getattr(model, "config", None))
    cached = cache and not (family is not None and family.mixer)
    sampling = sampling or Sampling()
    draws = torch.rand(
        tokens, generator=torch.Generator().manual_seed(sampling.seed), dtype=torch.float64
    )
    made: list[int] = []
    sequence = to_model(model, prompt)[None]
    past: Any = None
    with intervened(model, interventions, prompt_length=len(prompt)):
        for draw in draws.tolist():
            # What the cache holds is not computed again.
            fresh = sequence if past is None else sequence[:, -1:]
            more = {"past_key_values": past, "use_cache": True} if cached else {"use_cache": False}
            output = model(input_ids=fresh, **more)
            past = output.past_key_values if cached else None
            token = _next(output.logits[0, -1], sampling.temperature, draw)
            if token in stop:
                break
            made.append(token)
            sequence = torch.cat([sequence, sequence.new_tensor([[token]])], 1)
    return made


def _next(logits: Tensor, temperature: float, draw: float) -> int:
    """The token at a draw from [0, 1) of the distribution over logits [vocabulary]."""
    require_finite("the logits of the next token", logits)
    if temperature == 0:
        return int(logits.argmax())
    shares = torch.softmax(logits.double().cpu() / temperature, -1).cumsum(-1)
    place = int(torch.searchsorted(shares, draw * float(shares[-1]), right=True))
    return min(place, len(shares) - 1)
