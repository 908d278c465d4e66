"""An intervention: which target, what is done to it, and at which positions.

    Intervention(Latents(dictionary, (412,)), Steer(8.0))
    Intervention(AttentionHeads(5, (1, 3)), Zero(), positions="generated")
    Intervention(AtHookPoint("mlp_out.4"), Mean(activations))

Targets and positions are checked here as far as that goes without a model; `checks` does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bathyscope.attribution.interventions.changes import Change, Clamp, Mean, Resample, Steer
from bathyscope.dictionaries.crosscoder import Crosscoder
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError

Positions = Literal["all", "prompt", "generated"] | tuple[int, ...]
"""All positions; those of the prompt; those of tokens that were generated; or numbers, counted from
0, or from the end of the prompt where they are negative: -1 is its last token."""
WORDS = ("all", "prompt", "generated")


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents of a dictionary, by number. Those of a cross-layer transcoder count on over layers.

    Raises `ConfigError` for numbers beyond the dictionary, and for a crosscoder.
    """

    dictionary: AnyDictionary
    indices: tuple[int, ...]
    name: str = ""
    """What the dictionary is called, for messages."""

    def __post_init__(self) -> None:
        called = f"dictionary {self.name!r}" if self.name else "dictionary"
        if isinstance(self.dictionary, Crosscoder):
            blocks = ", ".join(block.hook_point for block in self.dictionary.inputs)
            raise ConfigError(
                f"The {called} is a crosscoder: its latents are known only once all of {blocks} "
                "are, and would have to be written to the first of them, which has gone by. Steer "
                "along a direction at one hook point instead: the columns of its decoder row that "
                "stand for it."
            )
        total = self.dictionary.num_latents
        wrong = [i for i in self.indices if not 0 <= i < total]
        if wrong or not self.indices:
            asked = f"latent {wrong[0]}" if wrong else "no latent"
            raise ConfigError(
                f"{asked.capitalize()} was asked for, but the {called} has latents 0 to "
                f"{total - 1}."
            )

    @property
    def described(self) -> str:
        """As a person reads it: `latent 412 of main`."""
        numbers = ", ".join(map(str, self.indices))
        return f"latent {numbers}" + (f" of {self.name}" if self.name else "")


@dataclass(frozen=True)
class AttentionHeads:
    """Heads of a layer: query heads, where several share keys and values."""

    layer: int
    heads: tuple[int, ...]

    @property
    def described(self) -> str:
        """As a person reads it: `head 5.3`."""
        return "head " + ", ".join(f"{self.layer}.{head}" for head in self.heads)


@dataclass(frozen=True)
class AtHookPoint:
    """The whole tensor at a hook point: what attention or an MLP adds, or any module's."""

    hook_point: str

    @property
    def described(self) -> str:
        """As a person reads it."""
        return self.hook_point


Target = Latents | AttentionHeads | AtHookPoint


@dataclass(frozen=True, eq=False)
class Intervention:
    """One change of one target. Raises `ConfigError` where the two do not go together."""

    target: Target
    change: Change
    positions: Positions = "all"

    def __post_init__(self) -> None:
        positions = self.positions
        if not isinstance(positions, tuple) and positions not in WORDS:
            raise ConfigError(
                f"The positions of an intervention are {positions!r}; wanted one of "
                f"{', '.join(WORDS)}, or numbers such as (3, -1)."
            )
        on_latents = isinstance(self.target, Latents)
        if isinstance(self.change, Clamp) and not on_latents:
            raise ConfigError(
                f"{self.target.described} is a vector, which cannot be clamped to a number. Clamp "
                "latents; vectors are ablated, scaled or steered."
            )
        if isinstance(self.change, Steer) and on_latents != (self.change.direction is None):
            what = self.target.described
            raise ConfigError(
                f"{what} is steered along its decoder row. Leave the direction out."
                if on_latents
                else f"A direction is wanted to steer {what} along."
            )

    def everywhere(self) -> Intervention:
        """The same at all positions."""
        return replace(self, positions="all")

    def with_activations(self, activations: Tensor) -> Intervention:
        """The same, where a mean or resampled rows are still wanted, with these activations."""
        assert isinstance(self.change, Mean | Resample)
        return replace(self, change=replace(self.change, activations=activations))

    @property
    def wants_activations(self) -> bool:
        """Whether its change takes values from activations that are not given yet."""
        return isinstance(self.change, Mean | Resample) and self.change.activations is None

    @property
    def described(self) -> str:
        """As a person reads it: `steer latent 412 of main by 8`."""
        text = _DESCRIBED[type(self.change).__name__].format(
            target=self.target.described, change=self.change
        )
        if self.positions == "all":
            return text
        if isinstance(self.positions, tuple):
            return f"{text} at positions {', '.join(map(str, self.positions))}"
        return f"{text} at {self.positions} positions"


_DESCRIBED = {
    "Zero": "ablate {target} to zero",
    "Mean": "ablate {target} to its mean",
    "Resample": "ablate {target} by resampling",
    "Clamp": "clamp {target} to {change.value:g}",
    "Scale": "scale {target} by {change.factor:g}",
    "Steer": "steer {target} by {change.strength:g}",
}


def chosen(positions: Positions, numbers: Tensor, prompt_length: int) -> Tensor:
    """Which of these positions an intervention is made at: bool, of the shape of `numbers`."""
    if positions == "all":
        return torch.ones_like(numbers, dtype=torch.bool)
    if positions == "prompt":
        return numbers < prompt_length
    if positions == "generated":
        return numbers >= prompt_length
    assert isinstance(positions, tuple)
    wanted = [p if p >= 0 else prompt_length + p for p in positions]
    return torch.isin(numbers, torch.tensor(wanted, dtype=numbers.dtype))


def described(interventions: Sequence[Intervention]) -> str:
    """All of them in a line."""
    return "; ".join(each.described for each in interventions) or "nothing"
