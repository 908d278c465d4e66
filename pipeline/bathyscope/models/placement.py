"""Where each module of an empty model goes: devices, CPU memory, disk.

Flows in: a model on the meta device, a wish, memory limits. Flows out: a device map as accelerate
understands it, that covers every tensor, or an error before anything is read.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import infer_auto_device_map
from accelerate.utils import (
    check_device_map,
    find_tied_parameters,
    get_balanced_memory,
    get_max_memory,
)
from torch import nn

from bathyscope.errors import ModelError

logger = logging.getLogger(__name__)

Device = int | str
"""A GPU's number, a torch device's name, or `disk`."""
MaxMemory = Mapping[Device, int | str]
"""Device -> bytes, or a size such as `10GiB`."""


def choose_device_map(
    model: nn.Module,
    device_map: str | Mapping[str, Any] | None,
    *,
    max_memory: MaxMemory | None = None,
    offload_folder: Path | None = None,
) -> dict[str, Device]:
    """Module path -> device for every tensor of the (cut) model.

    None is one device: the current GPU, else the CPU. `auto` fills device after device,
    `balanced` spreads over the GPUs; both go on to CPU memory, and to disk if `offload_folder` is
    given. A dict is taken as it is. Raises ModelError for what does not fit or is not covered.
    """
    if device_map is None or device_map == "cpu":
        gpu = device_map is None and torch.cuda.is_available()
        chosen: dict[str, Device] = {"": torch.cuda.current_device() if gpu else "cpu"}
        _check_fits(model, chosen[""], _available(chosen[""], max_memory))
    elif isinstance(device_map, str):
        chosen = _infer(model, device_map, max_memory, offload_folder)
    else:
        chosen = _given(model, device_map)
    _check_ties(model, chosen)
    return chosen


def check_names(model: nn.Module, device_map: Mapping[str, Any]) -> None:
    """Raise ModelError for names that the whole model does not have; called before it is cut."""
    known = {"", *(n for n, _ in model.named_modules()), *(n for n, _ in model.named_parameters())}
    unknown = sorted(set(device_map) - known)
    if unknown:
        raise ModelError(
            f"device_map names modules that the model does not have: {', '.join(unknown)}. "
            f"Its top modules are {', '.join(n for n, _ in model.named_children())}."
        )


def device_of(name: str, device_map: Mapping[str, Device]) -> Device:
    """Device of a tensor: that of the longest module path in the map that contains it."""
    while name not in device_map:
        assert name, "the device map covers every tensor"
        name = name.rpartition(".")[0]
    return device_map[name]


def torch_device(device: Device) -> torch.device:
    """A torch device for an entry that is not `disk`."""
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)


def recorded(device_map: Mapping[str, Device]) -> dict[str, str]:
    """The map as it is written into a run's record; the whole model is named `*`."""
    return {
        name or "*": "disk" if device == "disk" else str(torch_device(device))
        for name, device in device_map.items()
    }


def size_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, tied ones once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _memory(max_memory: MaxMemory | None) -> dict[Device, int]:
    limits = None
    if max_memory is not None:
        limits = {_numbered(device): limit for device, limit in max_memory.items()}
    try:
        return dict(get_max_memory(limits))
    except ValueError as error:
        raise ModelError(
            f"max_memory {dict(max_memory or {})} cannot be read ({error}). Wanted GPU numbers, "
            f"'cpu' or 'disk' -> bytes, or sizes such as '10GiB'."
        ) from error


def _numbered(device: Any) -> Any:
    # JSON and some YAML turn the numbers of GPUs into text.
    return int(device) if isinstance(device, str) and device.isdecimal() else device


def _available(device: Device, max_memory: MaxMemory | None) -> int | None:
    """Bytes that one device may give; other GPUs are not touched to find out."""
    if max_memory is not None:
        return _memory(max_memory).get(device)
    if isinstance(device, int):
        return int(torch.cuda.mem_get_info(device)[0])
    # accelerate brings it along; imported here so that this file needs torch and accelerate only.
    import psutil

    return int(psutil.virtual_memory().available)


def _check_fits(model: nn.Module, device: Device, available: int | None) -> None:
    if available is not None and size_bytes(model) > available:
        raise ModelError(
            f"The model does not fit: it needs {_gb(size_bytes(model))} and {device} has "
            f"{_gb(available)}. Use device_map='auto' with more devices or an offload_folder, "
            f"fewer layers, head=False or a smaller dtype."
        )


def _infer(
    model: nn.Module, wish: str, max_memory: MaxMemory | None, offload_folder: Path | None
) -> dict[str, Device]:
    if wish not in ("auto", "balanced"):
        raise ModelError(f"Unknown device_map {wish!r}; wanted auto, balanced, cpu or a dict.")
    memory = _memory(max_memory)
    whole_blocks = list(getattr(model, "_no_split_modules", None) or [])
    if wish == "balanced":
        memory = get_balanced_memory(model, memory, no_split_module_classes=whole_blocks)
    with warnings.catch_warnings():
        # It warns of buffers of offloaded layers; ours are rotary tables of a few kilobytes.
        warnings.simplefilter("ignore")
        inferred = infer_auto_device_map(
            model, max_memory=dict(memory), no_split_module_classes=whole_blocks
        )
    chosen: dict[str, Device] = dict(inferred)
    if "disk" in chosen.values() and offload_folder is None:
        limits = ", ".join(f"{device} {_gb(limit)}" for device, limit in memory.items())
        raise ModelError(
            f"The model does not fit: it needs {_gb(size_bytes(model))}, room for its largest "
            f"block to be moved, and there is {limits}. Add devices, use fewer layers, head=False "
            f"or a smaller dtype, or give an offload_folder to run from disk (slow)."
        )
    _log_offload(chosen)
    return chosen


def _given(model: nn.Module, device_map: Mapping[str, Any]) -> dict[str, Device]:
    modules = {name for name, _ in model.named_modules()}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    chosen = {
        name: _checked_device(name, device)
        for name, device in device_map.items()
        if name in modules | parameters
    }
    if not chosen:
        raise ModelError("device_map names no module that is loaded.")
    try:
        check_device_map(model, chosen)
    except ValueError as error:
        raise ModelError(f"device_map is incomplete. {error}") from error
    main = next((d for d in chosen.values() if d not in ("cpu", "disk")), "cpu")
    for name, _ in model.named_buffers():
        # Rotary tables are in no checkpoint, so maps made by hand often forget their module.
        if not any(name == key or name.startswith(key + ".") or not key for key in chosen):
            chosen[name.rpartition(".")[0]] = main
    _log_offload(chosen)
    return chosen


def _checked_device(name: str, device: Any) -> Device:
    device = _numbered(device)
    if device == "disk":
        return "disk"
    try:
        parsed = torch_device(device)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"device_map puts {name!r} on {device!r}, which is no device.") from error
    if parsed.type == "cuda":
        index = parsed.index or 0
        if index >= torch.cuda.device_count():
            raise ModelError(
                f"device_map puts {name!r} on GPU {index}, but {torch.cuda.device_count()} GPUs "
                f"are visible here."
            )
        return index
    return str(parsed)


def _check_ties(model: nn.Module, device_map: Mapping[str, Device]) -> None:
    for group in find_tied_parameters(model):
        devices = {str(device_of(name, device_map)) for name in group}
        if len(devices) > 1:
            raise ModelError(
                f"device_map puts tied weights on different devices ({', '.join(sorted(devices))}):"
                f" {', '.join(sorted(group))}. Put their modules on one device."
            )


def _log_offload(device_map: Mapping[str, Device]) -> None:
    devices = {str(device) for device in device_map.values()}
    if "disk" in devices or ("cpu" in devices and len(devices) > 1):
        kept = sorted({"cpu", "disk"} & devices)
        logger.warning("parts of the model stay on %s and are moved for each forward", kept)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
