"""Builds the model that a config describes, of the class that its family needs.

Flows in: a Hugging Face config. Flows out: a module whose parameters are as the caller's context
makes them: real and random, or without data.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from torch import nn

from bathyscope.errors import ModelError
from bathyscope.models.families import family_of


def build_model(config: Any, *, dtype: torch.dtype, attention: str) -> nn.Module:
    """The model of a config: the class of its family, else the one that the config names.

    A config of neither is taken for a causal language model. Raises ModelError for a config that
    transformers cannot build.
    """
    try:
        return _build(config, dtype, attention)
    except (ValueError, ImportError) as error:
        # What follows the first sentence lists every class that transformers has.
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"A model of type {config.model_type!r} cannot be built with attention "
            f"{attention!r}: {why}"
        ) from error


def _build(config: Any, dtype: torch.dtype, attention: str) -> nn.Module:
    family = family_of(config)
    settings: dict[str, Any] = {"dtype": dtype}
    if family is None or not family.mixer:
        settings["attn_implementation"] = attention
    config = copy.deepcopy(config)
    named = (getattr(config, "architectures", None) or [None])[0]
    if family is None and named is not None and hasattr(transformers, named):
        built: nn.Module = getattr(transformers, named)._from_config(config, **settings)
        return built
    auto = getattr(transformers, family.auto_class if family else "AutoModelForCausalLM")
    built = auto.from_config(config, trust_remote_code=False, **settings)
    return built
