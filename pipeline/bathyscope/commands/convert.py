"""convert: a dictionary in the format of one project becomes a folder in that of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from bathyscope.config import Config, ConvertConfig
from bathyscope.dictionaries.circuit_tracer_files import layers_in
from bathyscope.dictionaries.exchange import (
    CIRCUIT_TRACER,
    format_of,
    layers_of,
    name_hook_points,
    needed,
    read_folder,
    same_set,
    set_k,
    write_folder,
)
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError, MissingArtifact, ModelError
from bathyscope.stores.objects import Objects, local_path

_ROWS = 64


def convert(config: Config, say: Callable[[str], None]) -> None:
    """Read the folder `config.url`, write `convert.to`, and compare what both give.

    Each layer of a set of transcoders is a dictionary; without `convert.layer` all are converted,
    each into a folder of its own unless they become a set again. Raises `ConfigError` for settings
    that are missing, `MissingArtifact` for an empty folder, and `ModelError` for what cannot be
    read or written, or gives something else afterwards.
    """
    settings = config.convert
    if settings.to is None:
        raise ConfigError(
            "convert.to is not set. Give the folder to write: "
            "bathyscope convert FOLDER convert.to=FOLDER convert.format=saelens"
        )
    source = Objects(config.url)
    names = source.files("")
    if not names:
        raise MissingArtifact(f"{source.location} has no files. Give the folder of a dictionary.")
    found = settings.source_format or format_of(names)
    layers = layers_of(names, found, settings.layer)
    _check_settings(settings, layers)
    each: list[int | None] = [None] if layers is None else [*layers]
    for layer in each:
        wanted = needed(names, found, layer)
        _one(config, {name: source.get(name) for name in wanted}, found, layer, say)
    if settings.format == CIRCUIT_TRACER:
        there = layers_in(_files_in(settings.to)).get("layer", [])
        missing = sorted({*range(max(there, default=-1) + 1)} - {*there})
        if missing:
            say(
                f"incomplete circuit-tracer loads a set that has every layer from 0 on; still "
                f"missing {', '.join(map(str, missing))}"
            )


def _check_settings(settings: ConvertConfig, layers: list[int] | None) -> None:
    if settings.layer is not None and layers is None and settings.format != CIRCUIT_TRACER:
        raise ConfigError(
            f"convert.layer is {settings.layer}, but the folder is one dictionary and no set of "
            "transcoders. Leave it out."
        )
    if layers and len(layers) > 1 and (settings.inputs or settings.outputs):
        raise ConfigError(
            f"convert.inputs and convert.outputs name the hook points of one dictionary, and this "
            f"is a set of {len(layers)}. Choose a layer as well: convert.layer={layers[0]}"
        )


def _one(
    config: Config,
    files: Mapping[str, bytes],
    found: str,
    layer: int | None,
    say: Callable[[str], None],
) -> None:
    """Convert one dictionary; that of a layer, if it belongs to a set."""
    settings = config.convert
    dictionary = read_folder(files, format=found)
    name_hook_points(dictionary, settings.inputs, settings.outputs)
    if settings.k is not None:
        set_k(dictionary, settings.k)
    as_layer = settings.layer if layer is None else layer
    written = write_folder(dictionary, settings.format, layer=as_layer)
    difference = _difference(dictionary, read_folder(written, format=settings.format))
    in_folder = layer is not None and settings.layer is None and settings.format != CIRCUIT_TRACER
    to = f"{settings.to}/layer_{layer}" if in_folder else str(settings.to)
    _check_target(to, written, settings.format, force=config.force)
    target = Objects(to)
    for name, data in written.items():
        target.put(name, data, fsync=True)
    activation = dictionary.parts[0].activation.name
    of_layer = "" if layer is None else f", layer {layer}"
    say(
        f"read       {config.url}: {found}{of_layer}, {activation} {dictionary.kind}, "
        f"{dictionary.num_latents:,} latents"
    )
    k = dictionary.known_k
    said = f"k {k}" if k else "k not known: the file does not say it, and convert.k is not set"
    say(f"written    {to}: {settings.format}, {', '.join(sorted(written))}; {said}")
    say(f"compared   outputs of {_ROWS} random rows differ by {difference:.1e} at most")


def _check_target(to: str, written: Mapping[str, bytes], format: str, *, force: bool) -> None:
    """Raise `ConfigError` where files lie that would be replaced, or another set."""
    there = _files_in(to)
    if not there or force:
        return
    replaced = [name for name in written if name in there]
    is_set = "layer" in layers_in(list(written))
    if is_set and "layer" in layers_in(there):
        # Another layer of the same set; its configuration stays as it is.
        same_set(Objects(to).get("config.yaml"), written)
        replaced = [name for name in replaced if name != "config.yaml"]
    elif not replaced:
        replaced = there
    if replaced:
        raise ConfigError(
            f"{to} has {', '.join(replaced)} already. Choose another convert.to, or pass "
            "force=true."
        )


def _files_in(url: str) -> list[str]:
    """Files of a folder that may not be there; it is not made."""
    path = local_path(url)
    return Objects(url).files("") if path is None or path.is_dir() else []


@torch.no_grad()
def _difference(one: AnyDictionary, other: AnyDictionary) -> float:
    """Largest difference of the outputs relative to their size, on random rows."""
    dtype = one.parts[0].W_enc.dtype
    x = torch.randn(_ROWS, one.d_in, generator=torch.Generator().manual_seed(0)).to(dtype)
    before, after = one(x).float(), other(x).float()
    difference = float((before - after).abs().max() / before.abs().max().clamp_min(1e-30))
    if not difference < 1e-2:
        raise ModelError(
            f"What would be written gives other outputs than what was read, by {difference:.1e} of "
            "their size. Nothing was written. Please report it with the dictionary's configuration."
        )
    return difference
