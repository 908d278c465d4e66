"""Dictionaries of other projects: which format a folder has, and how it is read and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from bathyscope.dictionaries import saelens, sparsify
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.files import from_files, to_files
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError, ModelError

OWN = "bathyscope"
FILES: Mapping[str, tuple[str, str]] = {
    OWN: ("config.json", "model.safetensors"),
    "saelens": (saelens.CONFIG, saelens.WEIGHTS),
    "sparsify": (sparsify.CONFIG, sparsify.WEIGHTS),
}
"""Format -> its configuration and its weights."""
_READERS: Mapping[str, Callable[..., Dictionary]] = {
    "saelens": saelens.read, "sparsify": sparsify.read,
}  # fmt: skip
_WRITERS: Mapping[str, Callable[[Dictionary], tuple[Any, Any]]] = {
    "saelens": saelens.write, "sparsify": sparsify.write,
}  # fmt: skip
_PICKLES = (".pt", ".pth", ".pkl", ".bin", ".ckpt")


def format_of(names: list[str]) -> str:
    """The format of a folder with these files.

    Raises `ModelError` where it is none or more than one, saying what was found and wanted.
    """
    found = [name for name, files in FILES.items() if set(files) <= set(names)]
    if len(found) == 1:
        return found[0]
    wanted = "; ".join(f"{name}: {' and '.join(files)}" for name, files in FILES.items())
    if found:
        raise ModelError(
            f"The folder has the files of {' and of '.join(found)}. Keep those of one: {wanted}."
        )
    pickles = [name for name in names if name.endswith(_PICKLES)]
    because = f"{', '.join(pickles)} may be pickles, which are never loaded. " if pickles else ""
    raise ModelError(
        f"The folder has {', '.join(names) or 'nothing'}, which is no format that is read. "
        f"{because}Wanted {wanted}."
    )


def read_folder(files: Mapping[str, bytes], *, format: str | None = None) -> AnyDictionary:
    """The dictionary in the files of a folder, by name.

    Raises `ModelError` for an unknown or mixed format, and what the format's reader raises.
    """
    chosen = format or format_of(sorted(files))
    if chosen not in FILES:
        raise ModelError(f"The format {chosen!r} is unknown. Choose one of {', '.join(FILES)}.")
    config_name, weights_name = FILES[chosen]
    missing = [name for name in (config_name, weights_name) if name not in files]
    if missing:
        raise ModelError(
            f"A folder of {chosen} has {config_name} and {weights_name}; {', '.join(missing)} "
            f"is not there. The folder has {', '.join(sorted(files)) or 'nothing'}."
        )
    if chosen == OWN:
        return from_files(files[config_name], files[weights_name])
    try:
        config, tensors = json.loads(files[config_name]), load(files[weights_name])
    except (ValueError, SafetensorError) as error:
        raise ModelError(
            f"{config_name} ({len(files[config_name])} bytes) and {weights_name} "
            f"({len(files[weights_name])} bytes) cannot be read: {error}. Weights are read from "
            "safetensors only."
        ) from error
    try:
        return _READERS[chosen](config, tensors)
    except (ConfigError, KeyError, TypeError) as error:
        raise ModelError(
            f"{config_name} does not describe a dictionary ({type(error).__name__}: {error})."
        ) from error


def write_folder(dictionary: AnyDictionary, format: str) -> dict[str, bytes]:
    """The files of a folder in that format. Raises `ModelError` for what it does not have."""
    if format not in FILES:
        raise ModelError(f"The format {format!r} is unknown. Choose one of {', '.join(FILES)}.")
    if format == OWN:
        return to_files(dictionary, {})
    if not isinstance(dictionary, Dictionary):
        raise ModelError(f"{format} has no {dictionary.kind.replace('_', ' ')}.")
    config, tensors = _WRITERS[format](dictionary)
    config_name, weights_name = FILES[format]
    return {config_name: json.dumps(config, indent=1).encode(), weights_name: save(tensors)}
