"""Any torch module as a model: built by a function that is named, filled from a state dict.

Flows in: the import path of a function in a package that is installed, its arguments, a file of
weights. Flows out: a `LoadedModel`. Weights are safetensors, or a file of torch that holds tensors
only: nothing in it is run.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file
from torch import Tensor, nn

from bathyscope.errors import ModelError
from bathyscope.models.load import LoadedModel
from bathyscope.models.placement import choose_device_map, recorded, torch_device


def weights_path(weights: str) -> Path:
    """The file that a setting names: a path, or `package:path/inside/it` of an installed package.

    Raises ModelError when it is not there.
    """
    package, colon, inside = weights.partition(":")
    path = Path(weights).expanduser()
    if colon and not path.exists():
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(
                f"model.weights is {weights!r}, but no package {package!r} is installed. Install "
                "it, or give the path of a file."
            )
        path = Path(next(iter(spec.submodule_search_locations)), inside)
    if not path.is_file():
        raise ModelError(f"model.weights is {weights!r}, and {path} is no file.")
    return path


def build_module(factory: str, arguments: Mapping[str, Any]) -> nn.Module:
    """What the function at `package.module:name` returns for these arguments.

    The name may have dots, for a class method. Raises ModelError when it cannot be imported, or
    does not return a module.
    """
    function = _imported(factory)
    try:
        built = function(**arguments)
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(
            f"{factory}({_shown(arguments)}) failed: {type(error).__name__}: {error}. Check "
            "model.arguments."
        ) from error
    if not isinstance(built, nn.Module):
        raise ModelError(f"{factory} returned {type(built).__name__}; a torch module was wanted.")
    return built


def empty_module(factory: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The same without data, for shapes. Raises what `build_module` raises."""
    with init_empty_weights(include_buffers=True):
        module = build_module(factory, arguments)
    return module.eval().requires_grad_(False)


def load_module(
    factory: str,
    arguments: Mapping[str, Any],
    weights: str,
    *,
    dtype: torch.dtype,
    device: str | None = None,
) -> LoadedModel:
    """Build the module and fill it, on one device: `device`, else the GPU, else the CPU.

    Raises ModelError where names or shapes do not match, and for a device map: how a module may be
    spread over devices is not known.
    """
    if device not in (None, "cpu"):
        raise ModelError(
            f"model.device_map is {device!r}, but a module is loaded on one device. Leave it out, "
            "or set it to cpu."
        )
    path = weights_path(weights)
    module = build_module(factory, arguments).eval().requires_grad_(False)
    try:
        module.load_state_dict(read_state(path))
    except RuntimeError as error:
        raise ModelError(
            f"{path.name} does not fit {factory}: {' '.join(str(error).split())[:600]}"
        ) from error
    placed = choose_device_map(module, device)
    module.to(torch_device(placed[""]), dtype)
    return LoadedModel(module, None, path.parent, dtype, "", (0, 0), True, recorded(placed))


def module_digest(factory: str, arguments: Mapping[str, Any], weights: str) -> dict[str, str]:
    """What identifies the model: function, arguments, the version of its package, the weights."""
    package = factory.split(":")[0].split(".")[0]
    distributions = metadata.packages_distributions().get(package, [])
    versions = [f"{name} {metadata.version(name)}" for name in sorted(set(distributions))]
    with weights_path(weights).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "factory": f"{factory}({_shown(arguments)})",
        "package": ", ".join(versions) or "not a distribution",
        "weights": f"sha256:{digest}",
    }


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises ModelError for one that holds anything else."""
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Torch raises what its unpickler does, which has no name here: pickles are not used.
        raise ModelError(
            f"{path} holds no plain tensors ({str(error).splitlines()[0]}). Files that run code "
            "are not read: save its state dict as safetensors."
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    wrong = [n for n, t in state.items() if not isinstance(t, Tensor)]
    if wrong:
        raise ModelError(f"{path} holds more than tensors: {', '.join(wrong[:5])}.")
    return dict(state)


def _imported(factory: str) -> Callable[..., Any]:
    module, colon, name = factory.partition(":")
    if not colon or not module or not name:
        raise ModelError(
            f"model.factory is {factory!r}. Wanted package.module:function, such as "
            "torchvision.models:resnet50."
        )
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"model.factory is {factory!r}, which cannot be imported: {error}. Install the "
            "package, or mend the name."
        ) from error
    return found


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in sorted(arguments.items()))
