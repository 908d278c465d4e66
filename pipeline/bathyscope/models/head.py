"""The end of a model without the model: unembedding and the gain of the final norm."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.models.checkpoints import Checkpoint, open_checkpoint
from bathyscope.models.families import FAMILIES, Family, family_of
from bathyscope.models.load import read_config

# These families store the gain as its difference from 1.
_GAIN_FROM_ONE = ("gemma2", "gemma3_text")


class Head(NamedTuple):
    """What turns the last residual stream into logits, apart from the norm's division."""

    unembedding: Tensor
    """[vocabulary, d], float32."""
    norm_gain: Tensor
    """[d], float32: what the final norm multiplies by."""


def read_head(folder: str | Path) -> Head | None:
    """Read the two tensors of a model folder; None for a model of no family in the table."""
    config = read_config(folder)
    family = family_of(config)
    if family is None:
        return None
    checkpoint = open_checkpoint(Path(folder))
    # Tied models store the embedding only.
    unembedding = _first(checkpoint, family, (family.unembedding, family.embedding))
    gain = _first(checkpoint, family, (family.final_norm,))
    if unembedding is None or gain is None:
        return None
    if config.model_type in _GAIN_FROM_ONE:
        gain = gain + 1
    return Head(unembedding, gain)


def _first(checkpoint: Checkpoint, family: Family, modules: tuple[str, ...]) -> Tensor | None:
    for module in modules:
        older = [
            module.replace(k.rstrip("."), v.rstrip(".")) for k, v in family.checkpoint_names.items()
        ]
        bare = module.partition(".")[2]
        for name in (module, *older, bare):
            key = f"{name}.weight"
            if name and key in checkpoint.tensors:
                return checkpoint.read(key, "cpu").to(torch.float32)
    return None


assert set(_GAIN_FROM_ONE) <= set(FAMILIES)
