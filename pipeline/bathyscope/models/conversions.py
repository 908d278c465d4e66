"""Parameters that a checkpoint stores under other names, or in parts that belong together.

transformers keeps the experts of a block as one tensor, while checkpoints hold them one by one, and
it renames modules now and then. It knows how the two relate; here its rules are applied to single
parameters, so that only the tensors that are needed are ever read.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bathyscope.errors import ModelError
from bathyscope.models.checkpoints import Checkpoint, StoredTensor


@dataclass(frozen=True)
class Merged:
    """A parameter that is made of several stored tensors."""

    name: str
    parts: tuple[tuple[str, StoredTensor], ...]
    """(the rule's pattern, stored tensor), in the order in which they are joined."""
    converter: Any
    """The rule of transformers."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored parts."""
        return self.parts[0][1].dtype

    @property
    def file(self) -> Any:
        """The file of the first part."""
        return self.parts[0][1].file

    def shape_in(self, model: nn.Module) -> tuple[int, ...]:
        """The shape that the parts make, from their headers alone."""
        empty = [torch.empty(s.shape, dtype=s.dtype, device="meta") for _, s in self.parts]
        return tuple(self._join(model, empty).shape)

    def read(self, model: nn.Module, checkpoint: Checkpoint) -> Tensor:
        """Read the parts and join them, on the CPU."""
        return self._join(model, [checkpoint.read(s.key, "cpu") for _, s in self.parts])

    def _join(self, model: nn.Module, tensors: list[Tensor]) -> Tensor:
        # A rule collects the tensors of one parameter, so each parameter gets a rule of its own.
        converter = copy.copy(self.converter)
        converter.collected_tensors = {}
        for (pattern, _), tensor in zip(self.parts, tensors, strict=True):
            converter.collected_tensors.setdefault(pattern, []).append(tensor)
        config: Any = model.config
        made = converter.convert(self.name, model=model, config=config)
        if self.name not in made:
            raise ModelError(
                f"{self.name} cannot be joined from {len(tensors)} stored tensors: transformers "
                f"made {', '.join(made)} of them. Is the checkpoint complete?"
            )
        value = made[self.name]
        joined: Tensor = value[0] if isinstance(value, list) else value
        return joined


def renamed(model: nn.Module, checkpoint: Checkpoint) -> Mapping[str, StoredTensor | Merged]:
    """Parameter -> what the checkpoint holds of it under other names, after transformers' rules.

    Empty for a model that is none of transformers', and where there are no rules.
    """
    from transformers import PreTrainedModel
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        dot_natural_key,
        rename_source_key,
    )

    if not isinstance(model, PreTrainedModel):
        return {}
    rules = get_model_conversion_mapping(model)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    of_pattern = {p: rule for rule in converters for p in rule.source_patterns}
    found: dict[str, StoredTensor | Merged] = {}
    parts: dict[str, list[tuple[str, StoredTensor]]] = {}
    for key in sorted(checkpoint.tensors, key=dot_natural_key):
        name, pattern = rename_source_key(
            key, renamings, converters, model.base_model_prefix, tensors
        )
        if pattern is None:
            found[name] = checkpoint.tensors[key]
        else:
            parts.setdefault(name, []).append((pattern, checkpoint.tensors[key]))
    for name, listed in parts.items():
        found[name] = Merged(name, tuple(listed), of_pattern[listed[0][0]])
    return found
