"""Dimensions of a model that stand in a configuration, so that no checkpoint is needed to plan.

Flows in: `model_type` and the fields of a Hugging Face config. Flows out: that config, or an error
that names the field.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from bathyscope.errors import ModelError

# Models read it where it is given, though not every config declares it.
_UNDECLARED = ("head_dim",)


def config_of(architecture: Mapping[str, Any]) -> Any:
    """The Hugging Face config with these fields, all others at the defaults of its `model_type`.

    Raises ModelError without a known `model_type`, and for a field that its config does not have.
    """
    fields = dict(architecture)
    kind = fields.pop("model_type", None)
    try:
        default = AutoConfig.for_model(kind)
    except (ValueError, KeyError) as error:
        raise ModelError(
            f"model.architecture has model_type {kind!r}. One that transformers knows is wanted, "
            "such as llama, qwen3 or gpt_neox."
        ) from error
    for name in fields:
        # A config of transformers takes any field, also a misspelt one.
        if not hasattr(default, name) and name not in _UNDECLARED:
            near = difflib.get_close_matches(name, list(default.to_dict()), n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ModelError(f"model.architecture.{name} is no field of a {kind} config.{hint}")
    return AutoConfig.for_model(kind, **fields)


def check_architecture(config: Any, architecture: Mapping[str, Any]) -> None:
    """Raise ModelError where a checkpoint's config is another one than was planned with."""
    for name, planned in architecture.items():
        found = getattr(config, name, None)
        if found != planned:
            raise ModelError(
                f"model.architecture.{name} is {planned!r}, but the checkpoint's config.json has "
                f"{found!r}: the plan was made for another model. Choose the model group of this "
                "checkpoint, or model=folder, which asks for no dimensions."
            )
