"""Whether interventions fit a model, found out before anything expensive.

A Hugging Face config is enough, so that a wrong one is refused before weights are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from bathyscope.attribution.interventions.changes import Steer
from bathyscope.attribution.interventions.intervention import (
    AtHookPoint,
    AttentionHeads,
    Intervention,
    Latents,
)
from bathyscope.dictionaries.layout import ColumnBlock
from bathyscope.errors import ConfigError, HookPointError, ModelError
from bathyscope.models.families import ALIAS_KINDS
from bathyscope.models.heads import heads_of
from bathyscope.models.hook_points import HookPoint, resolve


def check_interventions(model_or_config: Any, interventions: Sequence[Intervention]) -> None:
    """Raise unless every target is there in a model, or in the model that a config describes.

    `HookPointError` for hook points, layers and heads that are not there or cannot be changed;
    `ConfigError` for a mean or resampled rows without activations; `ModelError` for a dictionary
    of another width than the model's.
    """
    for each in interventions:
        target = each.target
        if isinstance(target, Latents):
            _check_dictionary(model_or_config, target)
        elif isinstance(target, AttentionHeads):
            _check_heads(model_or_config, target)
        else:
            assert isinstance(target, AtHookPoint)
            _check_direction(model_or_config, _changeable(model_or_config, target.hook_point), each)
        if each.wants_activations and isinstance(model_or_config, nn.Module):
            raise ConfigError(
                f"{each.described.capitalize()}: the activations to take it from are not given."
            )


def check_length(model_or_config: Any, prompt: int, more: int = 0) -> None:
    """Raise `ModelError` for an empty prompt, or for more tokens than the model was made for.

    `prompt` and `more` are numbers of tokens, given and to be generated.
    """
    is_model = isinstance(model_or_config, nn.Module)
    config = getattr(model_or_config, "config", None) if is_model else model_or_config
    context = getattr(config, "max_position_embeddings", None)
    if prompt < 1:
        raise ModelError("The prompt is empty. Give at least one token of text.")
    if context is not None and prompt + more > context:
        and_more = f" and {more} are to be generated" if more else ""
        raise ModelError(
            f"The prompt has {prompt} tokens{and_more}, but the model was made for at most "
            f"{context}. Shorten the prompt{' or generate fewer' if more else ''}."
        )


def _check_dictionary(model_or_config: Any, target: Latents) -> None:
    dictionary = target.dictionary
    for block in dictionary.inputs:
        _check_width(model_or_config, _there(model_or_config, target, block), target, block)
    for block in dictionary.outputs:
        point = _there(model_or_config, target, block)
        _refuse_aside(point)
        _check_width(model_or_config, point, target, block)


def _there(model_or_config: Any, target: Latents, block: ColumnBlock) -> HookPoint:
    try:
        return resolve(model_or_config, block.hook_point)
    except HookPointError as error:
        raise HookPointError(
            f"Dictionary {target.name or target.dictionary.kind!r} belongs to the hook point "
            f"{block.hook_point!r}, which this model does not have. {error}"
        ) from error


def _check_width(
    model_or_config: Any, point: HookPoint, target: Latents, block: ColumnBlock
) -> None:
    width = _width(model_or_config, point)
    if width is not None and width != block.width:
        raise ModelError(
            f"Dictionary {target.name or target.dictionary.kind!r} has {block.width} columns for "
            f"{point.name}, but the model's activations there have {width} numbers. It belongs to "
            "another model."
        )


def _check_heads(model_or_config: Any, target: AttentionHeads) -> None:
    count = heads_of(model_or_config, target.layer).count
    wrong = [head for head in target.heads if not 0 <= head < count]
    if wrong or not target.heads:
        asked = f"head {wrong[0]}" if wrong else "no head"
        raise HookPointError(
            f"{asked.capitalize()} of layer {target.layer} was asked for, but the layer has heads "
            f"0 to {count - 1}."
        )


def _changeable(model_or_config: Any, name: str) -> HookPoint:
    point = resolve(model_or_config, name)
    _refuse_aside(point)
    return point


def _refuse_aside(point: HookPoint) -> None:
    if point.reads_residual_aside:
        raise HookPointError(
            f"{point.name} can be read but not changed: the residual stream passes beside the norm "
            f"that is hooked, so only the MLP would see the change. Change "
            f"'attn_out.{point.layer}' or 'resid_post.{point.layer}'."
        )


def _check_direction(model_or_config: Any, point: HookPoint, intervention: Intervention) -> None:
    change, width = intervention.change, _width(model_or_config, point)
    direction = change.direction if isinstance(change, Steer) else None
    if direction is not None and width is not None and len(direction) != width:
        raise HookPointError(
            f"The direction to steer {point.name} along has {len(direction)} numbers; its "
            f"activations have {width}."
        )


def _width(model_or_config: Any, point: HookPoint) -> int | None:
    """Width of the activations at an alias; None at a path, where the first forward finds out."""
    is_model = isinstance(model_or_config, nn.Module)
    config = getattr(model_or_config, "config", None) if is_model else model_or_config
    known = point.name.partition(".")[0] in ALIAS_KINDS
    width = getattr(config, "hidden_size", None) if known else None
    return None if width is None else int(width)
