"""The model of a run, described without weights and loaded as far as the hook points need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.models.architectures import check_architecture, config_of
from bathyscope.models.footprint import empty_model, footprint
from bathyscope.models.hook_points import HookPoint, layers_needed
from bathyscope.models.load import LoadedModel, load_model, model_digest, read_config
from bathyscope.models.modules import empty_module, load_module, module_digest, weights_path
from bathyscope.models.pipeline import PipelineStage, stage_blocks
from bathyscope.models.precision import default_device_kind, resolve_dtype
from bathyscope.models.shapes import ModelShape, model_shape
from bathyscope.models.sources import SMOLLM2_NAME
from bathyscope.stages.inputs import cache_folder, is_of_images, model_folder
from bathyscope.values import Json


@dataclass(frozen=True)
class ModelPlan:
    """What a plan must know of a model, whether its checkpoint is there or not."""

    name: str
    hf: Any
    """Its Hugging Face config; None for a module that has none."""
    shape: ModelShape
    dtype: torch.dtype
    dtype_reason: str

    @property
    def dtype_name(self) -> str:
        """The dtype as the configuration spells it."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class ModelFacts(ModelPlan):
    """What stages must know before weights are loaded."""

    folder: Path

    def hook(self, name: str) -> HookPoint:
        """The hook point of that name."""
        return next(hook for hook in self.shape.hooks if hook.name == name)

    def digest(self, config: Config) -> Json:
        """What identifies the weights and the config."""
        if config.model.kind == "module":
            return dict(module_digest(*_module(config), str(config.model.weights)))
        return dict(model_digest(self.folder, cache_folder=cache_folder(config)))


def describe_model(config: Config) -> ModelFacts:
    """Resolve hook points, widths and dtype on a model without weights.

    Raises `HookPointError` with near matches for a name that fits nothing, and `ConfigError`
    for sequences longer than the model's context.
    """
    if config.model.kind == "module":
        factory, arguments = _module(config)
        weights = weights_path(str(config.model.weights))
        empty = empty_module(factory, arguments)
        return ModelFacts(*_described(config, empty, factory.partition(":")[2]), folder=weights)
    folder = model_folder(config)
    hf = read_config(folder)
    check_architecture(hf, config.model.architecture)
    return ModelFacts(*_described(config, hf, _name(config, folder)), folder=folder)


def plan_model(config: Config) -> ModelPlan:
    """The model of a configuration from `model.architecture`, or from its folder without it.

    Neither a hub nor a checkpoint is asked where the dimensions are given. `auto` is then the
    dtype of the hardware that is planned with. Raises what `describe_model` raises.
    """
    given = config.model.architecture
    if not given:
        return describe_model(config)
    name = config.model.repo or config.model.path or str(given.get("model_type"))
    return ModelPlan(
        *_described(config, config_of(given), name, gpus=config.hardware.gpus_per_node)
    )


def load_for_hooks(config: Config, facts: ModelFacts) -> tuple[LoadedModel, list[HookPoint]]:
    """The model up to its last hook point, without head, and the hook points in it.

    A module is loaded whole; its forward ends at the last hook point.
    """
    if config.model.kind == "module":
        weights, device = str(config.model.weights), config.model.device_map
        loaded = load_module(*_module(config), weights, dtype=facts.dtype, device=device)
        return loaded, facts.shape.hooks
    layers = layers_needed(facts.shape.hooks)
    return _load(config, facts, layers=layers, head=layers is None), facts.shape.hooks


def load_share(config: Config, facts: ModelFacts, rank: int, processes: int) -> PipelineStage:
    """The blocks of one of several processes that hold the model together, near equal in size.

    Raises `ModelError` for more processes than blocks, and where blocks are unknown.
    """
    layers = layers_needed(facts.shape.hooks)
    needs = footprint(facts.hf, None if layers is None else layers[1])
    blocks = stage_blocks(needs.sizes, processes)[rank]
    model = config.model
    return PipelineStage(
        facts.folder,
        blocks,
        facts.shape.hooks,
        dtype=facts.dtype,
        device_map=model.device_map,
        max_memory=_max_memory(model.max_memory),
        attention=model.attention,
    )


def load_tail(config: Config, first_layer: int) -> LoadedModel:
    """The layers from `first_layer` on, with the head: restarts from stored activations."""
    facts = describe_model(config)
    return _load(config, facts, layers=(first_layer, facts.shape.num_layers), head=True)


def load_whole(config: Config) -> LoadedModel:
    """All layers and the head; a module is always whole."""
    facts = describe_model(config)
    if config.model.kind == "module":
        return load_for_hooks(config, facts)[0]
    return _load(config, facts, layers=None, head=True)


def _load(
    config: Config, facts: ModelFacts, *, layers: tuple[int, int] | None, head: bool
) -> LoadedModel:
    model = config.model
    return load_model(
        facts.folder,
        dtype=facts.dtype,
        layers=layers,
        head=head,
        device_map=model.device_map,
        max_memory=_max_memory(model.max_memory),
        offload_folder=model.offload_folder,
        attention=model.attention,
    )


def empty_of(config: Config) -> nn.Module:
    """The whole model without data, for its shape. Raises what `describe_model` raises."""
    if config.model.kind == "module":
        return empty_module(*_module(config))
    return empty_model(read_config(model_folder(config)))


def num_blocks(config: Config) -> int:
    """Blocks of the model. Raises `ConfigError` for a module, whose blocks are unknown."""
    found = None
    if config.model.kind != "module":
        found = getattr(read_config(model_folder(config)), "num_hidden_layers", None)
    if not found:
        raise ConfigError(
            f"The blocks of {config.model.factory or config.model.path or config.model.repo} are "
            "unknown, so a depth says nothing. Name its hook point."
        )
    return int(found)


def input_keyword(config: Config, facts: ModelPlan) -> str | None:
    """How the model takes a batch: see `capture_batches`."""
    if not is_of_images(config):
        return "input_ids"
    return None if facts.hf is None else "pixel_values"


def _module(config: Config) -> tuple[str, dict[str, Any]]:
    return str(config.model.factory), dict(config.model.arguments)


def _described(
    config: Config, model: Any, name: str, *, gpus: int | None = None
) -> tuple[str, Any, ModelShape, torch.dtype, str]:
    """The fields of a `ModelPlan`, of a Hugging Face config or a module without data."""
    images = is_of_images(config)
    shape = model_shape(
        model,
        config.hooks.points,
        image_size=config.data.image_size if images else None,
        channels_last=config.hooks.channels_last,
    )
    hf = None if isinstance(model, nn.Module) else model
    if images:
        dtype, reason = _dtype(config, gpus)
        return name, hf, shape, dtype, reason
    if shape.context_length is not None and config.data.sequence_length > shape.context_length:
        raise ConfigError(
            f"data.sequence_length is {config.data.sequence_length}, but the model was made for "
            f"at most {shape.context_length} tokens. Choose a shorter one."
        )
    dtype, reason = _dtype(config, gpus)
    return name, hf, shape, dtype, reason


def _dtype(config: Config, gpus: int | None) -> tuple[torch.dtype, str]:
    return resolve_dtype(config.model.dtype, "cuda" if gpus else default_device_kind())


def _name(config: Config, folder: Path) -> str:
    if config.model.kind == "smollm2_135m":
        return SMOLLM2_NAME
    if config.model.kind == "hub":
        return f"{config.model.repo} at {config.model.revision}"
    return folder.name


def _max_memory(limits: dict[str, str]) -> dict[int | str, int | str] | None:
    return {int(k) if k.isdigit() else k: v for k, v in limits.items()} or None
