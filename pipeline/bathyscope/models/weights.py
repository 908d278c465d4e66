"""Fills an empty model from its checkpoint, a few tensors at a time.

Flows in: a (cut) model on the meta device, an open checkpoint, a device map. Flows out: the model
with its weights where they belong. Everything is found and its shape compared before the first
tensor is read; weights that stay on disk are read from the checkpoint itself at each forward.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import find_tied_parameters, set_module_tensor_to_device
from safetensors.torch import save_file
from torch import Tensor, nn

from bathyscope.errors import ModelError
from bathyscope.models.checkpoints import Checkpoint, StoredTensor
from bathyscope.models.conversions import Merged, renamed
from bathyscope.models.families import family_of
from bathyscope.models.placement import Device, device_of, torch_device

# Threads that read; as many tensors are on their way to a device.
_READERS = 4
Stored = StoredTensor | Merged
OffloadIndex = dict[str, dict[str, str]]
"""Parameter -> where accelerate reads it from: `safetensors_file` and `weight_name`."""


def plan_weights(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Stored]:
    """Name of each parameter and stored buffer -> the tensor, or tensors, that fill it.

    Raises ModelError with all missing tensors, or all that have another shape.
    """
    plan: dict[str, Stored] = {}
    converted: Mapping[str, Stored] | None = None
    missing: list[str] = []
    others = {name: group for group in find_tied_parameters(model) for name in group}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names = [name, *(n for n in others.get(name, ()) if n != name)]
        keys = [key for n in names for key in _checkpoint_names(model, n)]
        key = next((key for key in keys if key in checkpoint.tensors), None)
        if key is not None:
            plan[name] = checkpoint.tensors[key]
        else:
            converted = renamed(model, checkpoint) if converted is None else converted
            known = next((converted[n] for n in names if n in converted), None)
            if known is None:
                missing.append(name)
                continue
            plan[name] = known
        _check_dtype(name, parameter, plan[name])
    if missing:
        raise ModelError(
            f"{checkpoint.folder} lacks {len(missing)} tensors of {type(model).__name__}: "
            f"{_some(missing)}. It holds {len(checkpoint.tensors)}: "
            f"{_some(sorted(checkpoint.tensors))}. Do config.json and the weights belong together?"
        )
    for name, _ in model.named_buffers():
        for key in _checkpoint_names(model, name):
            if key in checkpoint.tensors and _is_stored(model, name):
                plan[name] = checkpoint.tensors[key]
    _check_shapes(model, plan)
    return plan


def fill_weights(
    model: nn.Module,
    checkpoint: Checkpoint,
    plan: Mapping[str, Stored],
    device_map: Mapping[str, Device],
    *,
    offload_folder: Path | None = None,
) -> OffloadIndex:
    """Set every planned tensor on its device, and return the index of those that stay on disk.

    Tensors are cast to the dtype that the model gave them when it was built. A parameter on disk
    whose stored dtype differs is written once to `offload_folder`; without one it is a ModelError.
    """
    index: OffloadIndex = {}
    first: dict[int, str] = {}
    tied: list[tuple[str, str]] = []
    reads: list[_Read] = []
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, stored in plan.items():
        device = device_of(name, device_map)
        if name not in parameters:
            # Buffers are small and stay in memory; accelerate moves them with their module.
            place = "cpu" if device == "disk" else device
            reads.append(_Read(name, stored, place, model.get_buffer(name).dtype))
        elif device == "disk":
            index[name] = _on_disk(
                model, checkpoint, name, stored, parameters[name], offload_folder
            )
        elif id(parameters[name]) in first:
            tied.append((name, first[id(parameters[name])]))
        else:
            first[id(parameters[name])] = name
            reads.append(_Read(name, stored, device, parameters[name].dtype))
    for read, value in _in_parallel(model, checkpoint, reads):
        _set(model, read.name, read.device, value)
    for name, source in tied:
        _tie(model, name, model.get_parameter(source))
    return index


class _Read(NamedTuple):
    name: str
    stored: Stored
    device: Device
    dtype: torch.dtype


def _in_parallel(
    model: nn.Module, checkpoint: Checkpoint, reads: list[_Read]
) -> Iterator[tuple[_Read, Tensor]]:
    """Read tensors of several files at once; no more than so many wait in memory.

    One file after another keeps a network file system waiting for a single stream.
    """

    def read(one: _Read) -> Tensor:
        return _read(model, checkpoint, one.stored, one.device, one.dtype)

    waiting: deque[tuple[_Read, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(_READERS, "weights") as pool:
        for one in _spread(reads):
            waiting.append((one, pool.submit(read, one)))
            if len(waiting) > _READERS:
                done, value = waiting.popleft()
                yield done, value.result()
        while waiting:
            done, value = waiting.popleft()
            yield done, value.result()


def _spread(reads: list[_Read]) -> Iterator[_Read]:
    """The reads, taking turns between as many files as are read at once, file by file."""
    by_file: dict[Path, deque[_Read]] = {}
    for one in reads:
        by_file.setdefault(one.stored.file, deque()).append(one)
    files = deque(by_file.values())
    open_files: deque[deque[_Read]] = deque()
    while files or open_files:
        while files and len(open_files) < _READERS:
            open_files.append(files.popleft())
        queue = open_files.popleft()
        yield queue.popleft()
        if queue:
            open_files.append(queue)


def _checkpoint_names(model: nn.Module, name: str) -> Iterator[str]:
    """Names under which checkpoints hold a parameter: its own, older ones, without the prefix."""
    yield name
    family = family_of(getattr(model, "config", None))
    for current, older in family.checkpoint_names.items() if family is not None else ():
        if name.startswith(current):
            yield older + name.removeprefix(current)
    # Checkpoints of the bare model (the published GPT-2) have no prefix.
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    if prefix != "." and name.startswith(prefix):
        yield name.removeprefix(prefix)


def _is_stored(model: nn.Module, name: str) -> bool:
    path, _, buffer = name.rpartition(".")
    return buffer not in model.get_submodule(path)._non_persistent_buffers_set


def _check_dtype(name: str, parameter: Tensor, stored: Stored) -> None:
    if parameter.is_floating_point() and not stored.dtype.is_floating_point:
        raise ModelError(
            f"{name} is stored as {stored.dtype} in {stored.file}: quantised weights cannot be "
            f"loaded. Use the checkpoint in float32, float16 or bfloat16."
        )


def _check_shapes(model: nn.Module, plan: Mapping[str, Stored]) -> None:
    wrong = []
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    for name, stored in plan.items():
        wanted = tuple(tensors[name].shape)
        found = stored.shape_in(model) if isinstance(stored, Merged) else stored.shape
        if found != wanted:
            wrong.append(f"{name} is {list(found)}, wanted {list(wanted)}")
    if wrong:
        raise ModelError(
            f"Tensors of another shape than config.json says: {_some(wrong)}. "
            f"Do config.json and the weights belong together?"
        )


def _read(
    model: nn.Module, checkpoint: Checkpoint, stored: Stored, device: Device, dtype: torch.dtype
) -> Tensor:
    target = torch_device(device)
    if isinstance(stored, Merged):
        return stored.read(model, checkpoint).to(target, dtype)
    tensor = checkpoint.read(stored.key, target)
    if target.type == "cpu":
        # A view of the mapped file would change with the file and lie at any address, and the
        # last bits of a matmul depend on alignment.
        return torch.empty(stored.shape, dtype=dtype).copy_(tensor)
    return tensor.to(dtype)


def _set(model: nn.Module, name: str, device: Device, value: Tensor) -> None:
    place = torch_device(device)
    set_module_tensor_to_device(model, name, place, value=value, clear_cache=False)


def _tie(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, parameter)


def _on_disk(
    model: nn.Module,
    checkpoint: Checkpoint,
    name: str,
    stored: Stored,
    parameter: Tensor,
    offload_folder: Path | None,
) -> dict[str, str]:
    if isinstance(stored, StoredTensor) and stored.dtype == parameter.dtype:
        return {"safetensors_file": str(stored.file), "weight_name": stored.key}
    if offload_folder is None:
        raise ModelError(
            f"{name} stays on disk and is stored {_how(stored)}, but {parameter.dtype} in one "
            f"tensor was asked for. Give an offload_folder for the converted copy."
        )
    offload_folder.mkdir(parents=True, exist_ok=True)
    path = offload_folder / f"{name}.safetensors"
    # Renamed into place: another process may have the same file mapped.
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({name: _read(model, checkpoint, stored, "cpu", parameter.dtype)}, partial)
    os.replace(partial, path)
    return {"safetensors_file": str(path), "weight_name": name}


def _how(stored: Stored) -> str:
    in_parts = f" in {len(stored.parts)} parts" if isinstance(stored, Merged) else ""
    return f"as {stored.dtype}{in_parts}"


def _some(names: list[Any]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(str(name) for name in names[:4]) + more
