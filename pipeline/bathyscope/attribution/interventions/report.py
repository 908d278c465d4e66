"""What interventions did to a prompt: predictions, side effects and the continuation.

A report holds figures and text only, so that it can be kept, printed and written as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.attribution.interventions.effects import Effect, Prediction
from bathyscope.metrics.splice import DocumentLosses, delta_ce
from bathyscope.values import Json


@dataclass(frozen=True)
class Continuation:
    """What was generated after the prompt."""

    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class HeldOut:
    """Side effects on held-out text of the run, the change made at every kept position."""

    clean_ce: float
    """Nats per token."""
    delta_ce: float
    kl: float
    num_tokens: int
    num_documents: int

    @classmethod
    def of(cls, clean: DocumentLosses, changed: DocumentLosses) -> HeldOut:
        """The means of two variants' losses."""
        return cls(
            clean.mean_ce(),
            delta_ce(clean, changed),
            changed.mean_kl(),
            int(clean.num_tokens.sum()),
            len(clean.documents),
        )


@dataclass(frozen=True)
class Variant:
    """One set of interventions, made together."""

    name: str
    interventions: tuple[str, ...]
    """In words."""
    effect: Effect
    continuation: Continuation | None
    held_out: HeldOut | None


@dataclass(frozen=True)
class Report:
    """A prompt with every variant of what was done to it."""

    prompt: str
    tokens: tuple[str, ...]
    """The prompt's tokens as text."""
    clean: Continuation | None
    """The model's own continuation."""
    variants: tuple[Variant, ...]
    vocabulary: dict[int, str]
    """Text of every token that is named in a variant."""

    def to_dict(self) -> Json:
        """Everything as JSON, with what the figures mean."""
        return {
            "definitions": {
                "delta_ce": "CE of the changed model minus CE of the clean one, nats per token",
                "kl": "KL(clean || changed), nats per position",
                "position": "the position that predicts; its target is the next token",
                "held_out": "held-out text of the run, the change made at every kept position",
            },
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "continuation": None if self.clean is None else self.clean.text,
            "variants": [self._variant(variant) for variant in self.variants],
        }

    def _variant(self, variant: Variant) -> Json:
        effect, made, held_out = variant.effect, variant.continuation, variant.held_out
        return {
            "name": variant.name,
            "interventions": list(variant.interventions),
            "continuation": None if made is None else made.text,
            "mean_delta_ce": effect.mean_delta_ce,
            "mean_kl": effect.mean_kl,
            "clean_ce": effect.clean_ce.tolist(),
            "changed_ce": effect.changed_ce.tolist(),
            "kl": effect.kl.tolist(),
            "top_before": [self._prediction(each) for each in effect.before],
            "top_after": [self._prediction(each) for each in effect.after],
            "held_out": None if held_out is None else vars(held_out),
        }

    def _prediction(self, each: Prediction) -> Json:
        return {**vars(each), "text": self.vocabulary[each.token]}
