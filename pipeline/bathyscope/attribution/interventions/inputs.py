"""How tokens go into a language model, and logits come out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits [batch, positions, vocabulary] of tokens int64 [batch, positions], without a cache."""
    logits: Tensor = model(input_ids=to_model(model, tokens), use_cache=False).logits
    return logits


def to_model(model: nn.Module, tokens: Tensor) -> Tensor:
    """The tokens where the model takes them; offloaded embeddings leave them where they are."""
    embedding: Any = getattr(model, "get_input_embeddings", lambda: None)()
    weight: Any = getattr(embedding, "weight", None)
    if weight is None or weight.device == torch.device("meta"):
        return tokens
    return tokens.to(weight.device)
