"""A model of a family: what it is, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.config import ModelConfig


@dataclass(frozen=True)
class Checkpoint:
    """A member as it was on the way of its training."""

    name: str
    tokens: int
    """Training tokens that it had seen."""
    model: ModelConfig


@dataclass(frozen=True)
class Member:
    """One model of a family."""

    name: str
    architecture: str
    parameters: int
    """All of them, tied ones once."""
    embedding_parameters: int
    """Of these, the tables that are looked up."""
    seed: int | None
    """Of its initial weights; members that differ in nothing else are repetitions."""
    tokens: int | None
    """Training tokens that it has seen; None where that is not known."""
    model: ModelConfig
    hook: str | None = None
    """Where it is looked into; None takes the depth of the study."""
    overfitted: bool = False
    """Whether its held-out loss got worse before the end of its training."""
    held_out_loss: float | None = None
    """Nats per token, where its training measured it."""
    checkpoints: tuple[Checkpoint, ...] = ()
    trained: bool = True
    corpus: str | None = None
    """Run whose corpus it reads; None takes that of the study. Another one has other tokens."""

    @property
    def size(self) -> int:
        """Parameters without embeddings, which is what scaling is read against."""
        return self.parameters - self.embedding_parameters
