"""Which model is looked into, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bathyscope.config.option import not_negative, option, positive


@dataclass
class ModelConfig:
    """Which model is looked into, and how it is loaded."""

    kind: str = option("folder", "where weights come from: smollm2_135m, folder, hub or module")
    path: str | None = option(None, "folder with config.json and safetensors (kind folder)")
    repo: str | None = option(None, "hub repository (kind hub)")
    revision: str | None = option(None, "full commit hash of that repository (kind hub)")
    dtype: str = option(
        "auto", "bfloat16, float16, float32; auto takes bfloat16 where the hardware computes in it"
    )
    attention: str = option("sdpa", "attention kernel: sdpa or eager")
    device_map: str | None = option(
        None, "auto or balanced shards over devices with accelerate; null keeps one device"
    )
    max_memory: dict[str, str] = option(
        {}, "limit per device: +model.max_memory.0=70GiB +model.max_memory.cpu=200GiB"
    )
    offload_folder: str | None = option(None, "folder for weights that fit no device")
    factory: str | None = option(
        None, "package.module:function that builds any torch module (kind module)"
    )
    arguments: dict[str, Any] = option({}, "arguments of that function")
    weights: str | None = option(
        None, "its weights: a file, or package:path inside an installed package (kind module)"
    )
    image_mean: list[float] = option(
        [0.485, 0.456, 0.406], "mean of red, green and blue, of pixels from 0 to 1"
    )
    image_std: list[float] = option([0.229, 0.224, 0.225], "their deviation")
    architecture: dict[str, Any] = option(
        {}, "fields of the Hugging Face config, so that a plan needs neither hub nor checkpoint"
    )


@dataclass
class HooksConfig:
    """Where activations are taken."""

    points: list[str] = option(
        ["resid_post.9"], "hook points, by alias or module path; mlp_in.0-29 names 30"
    )
    batch_items: int = positive(8, "items of a forward; part of the identity of the result")
    channels_last: list[str] = option([], "hook points that give [batch, height, width, channels]")
    ring_bytes: int = not_negative(
        0, "host memory for rows between model and disk; 0: two shards per hook point"
    )
    writers: int = positive(
        4, "threads that sum, hash and write shards; most of the time they wait"
    )
