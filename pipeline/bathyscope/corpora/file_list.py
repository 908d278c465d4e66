"""Files of a corpus, from paths and globs, with names that hold no path of this machine."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bathyscope.errors import ConfigError, CorpusError

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class CorpusFile(NamedTuple):
    """A file of a corpus."""

    path: Path
    name: str
    """Its path below the folder shared by all files, with forward slashes."""


def list_files(
    paths: Paths, *, suffixes: Sequence[str], kind: str, folders: bool = False
) -> list[CorpusFile]:
    """The files that paths and globs name, each once, sorted by path.

    With `folders` a folder stands for all files in it, at any depth, with one of the suffixes.
    Raises `ConfigError` without a path, and `CorpusError` for one that matches no file, with the
    names that come near; `kind` is what the files are called there.
    """
    patterns = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not patterns:
        raise ConfigError(f"No {kind} path was given. Give at least one file or glob.")
    wanted = _Wanted(tuple(suffixes), kind, folders)
    found = sorted(
        {
            Path(os.path.abspath(path))
            for pattern in patterns
            for path in _matches(os.fspath(pattern), wanted)
        }
    )
    # abspath keeps symbolic links: what a link points to may have neither its name nor its suffix.
    shared = os.path.commonpath([path.parent for path in found])
    return [CorpusFile(path, path.relative_to(shared).as_posix()) for path in found]


class _Wanted(NamedTuple):
    suffixes: tuple[str, ...]
    kind: str
    folders: bool

    def fits(self, name: str) -> bool:
        return name.lower().endswith(self.suffixes)


def _matches(pattern: str, wanted: _Wanted) -> list[Path]:
    pattern = os.path.expanduser(pattern)
    # A plain name comes first: it may hold brackets that a glob would read as a set.
    if os.path.isfile(pattern):
        return [Path(pattern)]
    if wanted.folders and os.path.isdir(pattern):
        found = [Path(at, name) for at, _, names in os.walk(pattern) for name in names]
        found = [path for path in found if wanted.fits(path.name)]
    else:
        found = [Path(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)]
    if not found:
        raise CorpusError(f"No file matches '{pattern}'. {_near(Path(pattern), wanted)}")
    return found


def _near(pattern: Path, wanted: _Wanted) -> str:
    """Say which files come near a path or glob that matched none."""
    if pattern.is_dir():
        if wanted.folders:
            return f"It holds no {wanted.kind} file ({', '.join(wanted.suffixes)})."
        return f"It is a folder; give a glob such as '{pattern}/*{wanted.suffixes[0]}'."
    folder = pattern.parent
    if not folder.is_dir():
        existing = next(each for each in folder.absolute().parents if each.is_dir())
        return f"There is no folder '{folder}'; what exists of it is '{existing}'."
    names = sorted(each.name for each in folder.iterdir() if each.is_file())
    near = difflib.get_close_matches(pattern.name, names, n=5, cutoff=0.5)
    if not near:
        near = [name for name in names if wanted.fits(name)][:5]
    if not near:
        return f"There is no {wanted.kind} file in '{folder}'."
    return f"Near matches in '{folder}': {', '.join(near)}."
