"""The part of a dictionary that one of several processes holds, and the whole from all parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.training.grid import Grid, share_of_latents


def split_tensors(dictionary: AnyDictionary) -> dict[str, int]:
    """Names of tensors whose first axis is the latents of a part, with the number of that part."""
    found = {}
    for number, part in enumerate(dictionary.parts):
        prefix = "" if dictionary.parts == (dictionary,) else f"layers.{number}."
        for name, tensor in part.state_dict().items():
            if name not in ("b_dec", "W_skip") and tensor.ndim > 0:
                found[f"{prefix}{name}"] = number
    return found


def make_shard(make: Callable[[], AnyDictionary], grid: Grid, rank: int) -> AnyDictionary:
    """The dictionary that `make` gives, with room for the latents of one rank only.

    Its activation function goes on to know the number of all latents. Raises `ConfigError` where
    the latents do not divide.
    """
    with torch.device("meta"):
        made = make()
    split = split_tensors(made)
    for name, tensor in list(made.state_dict(keep_vars=True).items()):
        shape = list(tensor.shape)
        if name in split:
            shape[0] = len(share_of_latents(shape[0], grid, rank))
        owner, _, leaf = name.rpartition(".")
        module = made.get_submodule(owner)
        # Biases and thresholds start at zero, or NaN where they must be set first.
        fill = torch.nan if name.endswith("threshold") and not shape else 0.0
        empty = torch.full(shape, fill, dtype=tensor.dtype)
        if isinstance(tensor, nn.Parameter):
            setattr(module, leaf, nn.Parameter(empty))
        else:
            module.register_buffer(leaf, empty)
    return made


def join_shards(shards: list[dict[str, Tensor]], split: dict[str, int]) -> dict[str, Tensor]:
    """The tensors of the whole from those of all ranks that hold latents, in their order."""
    return {
        name: torch.cat([shard[name] for shard in shards]) if name in split else tensor
        for name, tensor in shards[0].items()
    }
