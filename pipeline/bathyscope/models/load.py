"""Loading: a local folder becomes a model that is sharded, cut and ready for hooks.

Flows in: a folder with config.json and safetensors files. Flows out: a `LoadedModel`. The model is
built empty, cut to the blocks that are needed, given a device map, and only then filled, so that
nothing after the last needed block is read, placed or run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model, init_empty_weights
from torch import nn
from transformers import AutoConfig

from bathyscope.errors import ModelError
from bathyscope.models.build import build_model
from bathyscope.models.checkpoints import model_digest, open_checkpoint
from bathyscope.models.cut import cut_model
from bathyscope.models.placement import (
    Device,
    MaxMemory,
    check_names,
    choose_device_map,
    recorded,
    size_bytes,
    torch_device,
)
from bathyscope.models.tokenizers import load_tokenizer
from bathyscope.models.weights import OffloadIndex, fill_weights, plan_weights

__all__ = ["LoadedModel", "load_model", "model_digest", "read_config"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode without gradients of its weights, and how it was loaded."""

    model: nn.Module
    config: Any
    """Of the whole model; `model.config` belongs to the cut one."""
    folder: Path
    dtype: torch.dtype
    attention: str
    """Attention implementation."""
    layers: tuple[int, int]
    """Blocks that are loaded: first, one past the last."""
    head: bool
    """Whether the final norm and the unembedding are loaded."""
    hf_device_map: dict[str, str]
    """Module path -> device, for the run's record; `*` is the whole model."""

    @cached_property
    def tokenizer(self) -> Any:
        """The folder's tokenizer, read when it is first asked for."""
        return load_tokenizer(self.folder)

    @property
    def input_device(self) -> torch.device:
        """Where inputs belong: the device on which the model starts."""
        devices = [d for d in self.hf_device_map.values() if d not in ("cpu", "disk")]
        return torch.device(devices[0] if devices else "cpu")


def load_model(
    folder: str | Path,
    *,
    dtype: torch.dtype,
    layers: tuple[int, int] | None = None,
    head: bool = True,
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: MaxMemory | None = None,
    offload_folder: str | Path | None = None,
    attention: str = "sdpa",
) -> LoadedModel:
    """Load a model of transformers from a local folder. Code in the folder is never run.

    `layers` (first, one past the last) keeps those blocks only; without `head` the residual stream
    comes out in place of logits. `device_map` is None (one device), `cpu`, `auto`, `balanced` or
    module path -> device, where a device is a GPU's number, `cpu` or `disk`. Raises ModelError,
    before any weight is read, where the folder cannot be loaded as asked or does not fit.
    """
    folder = Path(folder)
    started = time.monotonic()
    config = read_config(folder)
    checkpoint = open_checkpoint(folder)
    model = _build_empty(config, dtype, attention)
    if isinstance(device_map, Mapping):
        check_names(model, device_map)
    kept = cut_model(model, layers, head=head)
    offload = None if offload_folder is None else Path(offload_folder)
    placed = choose_device_map(model, device_map, max_memory=max_memory, offload_folder=offload)
    plan = plan_weights(model, checkpoint)
    index = fill_weights(model, checkpoint, plan, placed, offload_folder=offload)
    _dispatch(model, placed, index)
    seconds = time.monotonic() - started
    logger.info(
        "loaded %s, layers %d to %d of %d, head %s, %s, %.3g GB on %s in %.1f s",
        folder, kept[0], kept[1] - 1, config.num_hidden_layers, head, dtype,
        size_bytes(model) / 1e9, sorted(set(recorded(placed).values())), seconds,
    )  # fmt: skip
    return LoadedModel(model, config, folder, dtype, attention, kept, head, recorded(placed))


def read_config(folder: str | Path) -> Any:
    """The Hugging Face config of a local folder. Raises ModelError where there is none."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{str(folder)!r} is no model folder: it has no config.json. Wanted a local folder as "
            f"save_pretrained writes it; fetch a hub model first (source kind 'hub')."
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be used: {error}") from error
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{folder} holds a quantised model, which cannot be loaded. "
            f"Use the checkpoint in float32, float16 or bfloat16."
        )
    return config


def _build_empty(config: Any, dtype: torch.dtype, attention: str) -> nn.Module:
    # Buffers are made for real: rotary tables are in no checkpoint and nothing would fill them.
    with init_empty_weights(include_buffers=False):
        model: Any = build_model(config, dtype=dtype, attention=attention)
    # Building on the meta device parts tied weights.
    model.tie_weights()
    model.config.use_cache = False
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.use_cache = False
    empty: nn.Module = model.eval().requires_grad_(False)
    return empty


def _dispatch(model: nn.Module, device_map: dict[str, Device], index: OffloadIndex) -> None:
    devices = set(device_map.values())
    if len(devices) == 1 and "disk" not in devices:
        # Parameters are there already; this moves the buffers.
        model.to(torch_device(devices.pop()))
        return
    dispatch_model(
        model,
        device_map=device_map,
        offload_index=index or None,
        skip_keys=list(getattr(model, "_skip_keys_device_placement", None) or []),
    )
