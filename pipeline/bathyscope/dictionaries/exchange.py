"""Dictionaries of other projects: which format a folder has, and how it is read and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bathyscope.dictionaries import circuit_tracer, saelens, sparsify
from bathyscope.dictionaries import circuit_tracer_files as ct_files
from bathyscope.dictionaries.cross_layer import CrossLayerTranscoder
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.files import from_files, to_files
from bathyscope.dictionaries.kinds import AnyDictionary, check_columns
from bathyscope.dictionaries.layout import columns_of
from bathyscope.errors import ConfigError, ModelError
from bathyscope.values import Json

OWN, CIRCUIT_TRACER = "bathyscope", "circuit_tracer"
_FILES: Mapping[str, tuple[str, str]] = {
    OWN: ("config.json", "model.safetensors"),
    "saelens": (saelens.CONFIG, saelens.WEIGHTS),
    "sparsify": (sparsify.CONFIG, sparsify.WEIGHTS),
}
"""Format -> its configuration and its weights, of those that have two files."""
FORMATS = (*_FILES, CIRCUIT_TRACER)
_READERS: Mapping[str, Callable[..., Dictionary]] = {
    "saelens": saelens.read, "sparsify": sparsify.read,
}  # fmt: skip
_WRITERS: Mapping[str, Callable[[Dictionary], tuple[Any, Any]]] = {
    "saelens": saelens.write, "sparsify": sparsify.write,
}  # fmt: skip
_WANTED = "; ".join(
    [f"{name}: {' and '.join(files)}" for name, files in _FILES.items()]
    + [f"{CIRCUIT_TRACER}: {ct_files.CONFIG} and layer_L.safetensors, or and W_enc_L.safetensors "
       "and W_dec_L.safetensors, of every layer L"]
)  # fmt: skip
_PICKLES = (".pt", ".pth", ".pkl", ".bin", ".ckpt")


def format_of(names: Sequence[str]) -> str:
    """The format of a folder with these files.

    Raises `ModelError` where it is none or more than one, saying what was found and wanted.
    """
    found = [name for name, files in _FILES.items() if set(files) <= set(names)]
    if ct_files.CONFIG in names and ct_files.layers_in(names):
        found.append(CIRCUIT_TRACER)
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(
            f"The folder has the files of {' and of '.join(found)}. Keep those of one: {_WANTED}."
        )
    pickles = [name for name in names if name.endswith(_PICKLES)]
    because = f"{', '.join(pickles)} may be pickles, which are never loaded. " if pickles else ""
    if ct_files.CONFIG in names:
        because += f"A {ct_files.CONFIG} may name weights that lie elsewhere: fetch them here. "
    raise ModelError(
        f"The folder has {', '.join(names) or 'nothing'}, which is no format that is read. "
        f"{because}Wanted {_WANTED}."
    )


def layers_of(names: Sequence[str], format: str, layer: int | None = None) -> list[int] | None:
    """The layers of a set of transcoders, each of them a dictionary, or the chosen one.

    None for a folder that is one dictionary. Raises `ModelError` where layers of a set are
    missing.
    """
    found = ct_files.layers_in(names).get("layer", []) if format == CIRCUIT_TRACER else []
    if found and layer is not None:
        return [layer]
    if found:
        ct_files.complete(found, found[-1], "layer_%d.safetensors")
    return found or None


def needed(names: Sequence[str], format: str, layer: int | None = None) -> list[str]:
    """The files of a folder that one dictionary is in.

    Raises `ModelError` for an unknown format, and for files and layers that are missing.
    """
    _check(format)
    if format == CIRCUIT_TRACER:
        wanted = ct_files.files_of_layer(names, layer)
    else:
        wanted = list(_FILES[format])
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ModelError(
            f"A folder of {format} has {', '.join(wanted)}; {', '.join(missing)} is not there. "
            f"The folder has {', '.join(sorted(names)) or 'nothing'}."
        )
    return wanted


def read_folder(files: Mapping[str, bytes], *, format: str | None = None) -> AnyDictionary:
    """The dictionary in the files of a folder, by name; of a set those of one layer are given.

    Raises `ModelError` for an unknown or mixed format, and what the format's reader raises.
    """
    chosen = format or format_of(sorted(files))
    config_name, *weights = needed(sorted(files), chosen)
    if chosen == OWN:
        return from_files(files[config_name], files[weights[0]])
    config = _config(config_name, files[config_name])
    tensors = {name: _tensors(name, files[name]) for name in weights}
    try:
        if chosen == CIRCUIT_TRACER:
            return circuit_tracer.read(config, tensors)
        return _READERS[chosen](config, tensors[weights[0]])
    except (ConfigError, KeyError, TypeError) as error:
        raise ModelError(
            f"{config_name} does not describe a dictionary ({type(error).__name__}: {error})."
        ) from error


def write_folder(
    dictionary: AnyDictionary, format: str, *, layer: int | None = None
) -> dict[str, bytes]:
    """The files of a folder in that format; `layer` is that of a set, by the names where None.

    Raises `ModelError` for what the format does not have.
    """
    _check(format)
    if format == OWN:
        return to_files(dictionary, {})
    if format == CIRCUIT_TRACER:
        config, files = circuit_tracer.write(dictionary, layer)
        written = {name: save(tensors) for name, tensors in files.items()}
        return {ct_files.CONFIG: ct_files.to_yaml(config), **written}
    if not isinstance(dictionary, Dictionary):
        raise ModelError(f"{format} has no {dictionary.kind.replace('_', ' ')}.")
    config, tensors = _WRITERS[format](dictionary)
    config_name, weights_name = _FILES[format]
    return {config_name: json.dumps(config, indent=1).encode(), weights_name: save(tensors)}


def same_set(config_yaml: bytes, written: Mapping[str, bytes]) -> None:
    """Raise `ConfigError` unless files that were written belong to the set with that config."""
    there, new = (_config(ct_files.CONFIG, c) for c in (config_yaml, written[ct_files.CONFIG]))
    other = [
        f"{n} is {there[n]!r} there and {new[n]!r} here"
        for n in new
        if there.get(n, new[n]) != new[n]
    ]
    if other:
        raise ConfigError(
            f"The layer does not belong to the set that is there: {'; '.join(other)}. Layers of a "
            "set have one width, one number of latents and one activation function."
        )


def name_hook_points(
    dictionary: AnyDictionary, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Give what it reads and writes other names; no names leave them.

    Raises `ConfigError` for another number of names than it has hook points.
    """
    for given, old in ((inputs, dictionary.inputs), (outputs, dictionary.outputs)):
        if given and len(given) != len(old):
            raise ConfigError(
                f"{len(given)} names are given ({', '.join(given)}) for {len(old)} hook points "
                f"({', '.join(block.hook_point for block in old)}). Name all of them, or none."
            )
    widths = [block.width for block in dictionary.inputs]
    reads = columns_of(list(zip(inputs, widths, strict=True))) if inputs else dictionary.inputs
    writes = dictionary.outputs if not dictionary.writes_what_it_reads else reads
    if outputs:
        widths = [block.width for block in dictionary.outputs]
        writes = columns_of(list(zip(outputs, widths, strict=True)))
    check_columns(dictionary.kind, reads, writes)
    dictionary.inputs, dictionary.outputs = reads, writes
    if isinstance(dictionary, CrossLayerTranscoder):
        for layer, part in enumerate(dictionary.parts):
            part.inputs = columns_of([(reads[layer].hook_point, reads[layer].width)])
            part.outputs = columns_of([(b.hook_point, b.width) for b in writes[layer:]])


def set_k(dictionary: AnyDictionary, k: int) -> None:
    """Say the L0 of a dictionary that does not: of each layer of a CLT.

    Raises `ConfigError` where k decides which latents are active, and where it cannot be.
    """
    for part in dictionary.parts:
        if part.activation.encodes_with_k:
            raise ConfigError(
                f"This {part.activation.name} dictionary has k {part.activation.known_k}, with "
                "which it encodes. Leave convert.k out."
            )
        if not 1 <= k <= part.num_latents:
            raise ConfigError(f"convert.k is {k}; wanted 1 to {part.num_latents}, its latents.")
        part.activation.known_k = k


def _check(format: str) -> None:
    if format not in FORMATS:
        raise ModelError(f"The format {format!r} is unknown. Choose one of {', '.join(FORMATS)}.")


def _config(name: str, data: bytes) -> Json:
    try:
        read = ct_files.from_yaml(data) if name == ct_files.CONFIG else json.loads(data)
    except ValueError as error:
        raise ModelError(f"{name} ({len(data)} bytes) cannot be read: {error}.") from error
    if not isinstance(read, dict):
        raise ModelError(f"{name} holds a {type(read).__name__}; wanted names with values.")
    return read


def _tensors(name: str, data: bytes) -> dict[str, Tensor]:
    try:
        return load(data)
    except (ValueError, SafetensorError) as error:
        raise ModelError(
            f"{name} ({len(data)} bytes) cannot be read: {error}. Weights are read from "
            "safetensors only."
        ) from error
