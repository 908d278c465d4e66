"""convert: a dictionary in the format of one project becomes a folder in that of another."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bathyscope.config import Config
from bathyscope.dictionaries.exchange import FILES, format_of, read_folder, write_folder
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError, MissingArtifact, ModelError
from bathyscope.stores.objects import Objects, local_path

_ROWS = 64


def convert(config: Config, say: Callable[[str], None]) -> None:
    """Read the folder `config.url`, write `convert.to`, and compare what both give.

    Raises `ConfigError` for settings that are missing, `MissingArtifact` for an empty folder, and
    `ModelError` for what cannot be read or written, or gives something else afterwards.
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
    there = _files_in(settings.to)
    if there and not config.force:
        raise ConfigError(
            f"{settings.to} has {', '.join(there)} already. Choose another convert.to, or pass "
            "force=true."
        )
    known = {name for pair in FILES.values() for name in pair}
    found = settings.source_format or format_of(names)
    files = {name: source.get(name) for name in names if name in known}
    dictionary = read_folder(files, format=found)
    written = write_folder(dictionary, settings.format)
    difference = _difference(dictionary, read_folder(written, format=settings.format))
    target = Objects(settings.to)
    for name, data in written.items():
        target.put(name, data, fsync=True)
    latents, k = f"{dictionary.num_latents:,}", dictionary.known_k
    activation = dictionary.parts[0].activation.name
    say(f"read       {source.location}: {found}, {activation} {dictionary.kind}, {latents} latents")
    say(f"written    {target.location}: {settings.format}, {', '.join(sorted(written))}; k {k or 'not known'}")
    say(f"compared   outputs of {_ROWS} random rows differ by {difference:.1e} at most")


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
