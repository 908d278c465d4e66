"""Documents from JSON Lines files, plain or gzipped: one JSON object per line.

Files are read line by line, so their size does not matter. Ids hold no machine path: a file is
called by its path below the folder that all the files share.
"""

from __future__ import annotations

import difflib
import glob
import gzip
import json
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from bathyscope.corpora.documents import Document
from bathyscope.corpora.rows import row_document
from bathyscope.errors import ConfigError, CorpusError

logger = logging.getLogger(__name__)

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonlFile(NamedTuple):
    """A file of a JSONL corpus."""

    path: Path
    name: str
    """Its path below the folder shared by all files, with forward slashes."""


def jsonl(paths: Paths, *, text_key: str = "text", id_key: str | None = None) -> Iterator[Document]:
    """Read documents from files or globs (`**` too), *.jsonl or *.jsonl.gz, sorted by path.

    An id is the value of `id_key`, else "file name:line number" counted from 1. Ids of the user
    are not checked for repeats. Blank lines and rows without text are left out and counted in
    the log. Paths are checked at once, lines while iterating.

    Raises `CorpusError` for a path that matches no file (with the names that come near) and for a
    line that is no JSON object with text (with file, line number and what was wrong).
    """
    files = jsonl_files(paths)
    return (
        document for file in files for document in _read(file, text_key=text_key, id_key=id_key)
    )


def jsonl_files(paths: Paths) -> list[JsonlFile]:
    """Return the files that paths and globs name, each once, sorted by path."""
    patterns = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not patterns:
        raise ConfigError("No JSONL path was given. Give at least one file or glob.")
    found = sorted(
        {
            Path(os.path.abspath(path))
            for pattern in patterns
            for path in _matches(os.fspath(pattern))
        }
    )
    # abspath keeps symbolic links: what a link points to may have neither its name nor its suffix.
    shared = os.path.commonpath([path.parent for path in found])
    return [JsonlFile(path, path.relative_to(shared).as_posix()) for path in found]


def _matches(pattern: str) -> list[Path]:
    pattern = os.path.expanduser(pattern)
    # A plain name comes first: it may hold brackets that a glob would read as a set.
    if os.path.isfile(pattern):
        return [Path(pattern)]
    found = [Path(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)]
    if not found:
        raise CorpusError(f"No file matches '{pattern}'. {_near(Path(pattern))}")
    return found


def _near(pattern: Path) -> str:
    """Say which files come near a path or glob that matched none."""
    if pattern.is_dir():
        return f"It is a folder; give a glob such as '{pattern}/*.jsonl'."
    folder = pattern.parent
    if not folder.is_dir():
        existing = next(each for each in folder.absolute().parents if each.is_dir())
        return f"There is no folder '{folder}'; what exists of it is '{existing}'."
    names = sorted(each.name for each in folder.iterdir() if each.is_file())
    near = difflib.get_close_matches(pattern.name, names, n=5, cutoff=0.5)
    if not near:
        near = [name for name in names if name.endswith((".jsonl", ".jsonl.gz"))][:5]
    if not near:
        return f"There is no JSONL file in '{folder}'."
    return f"Near matches in '{folder}': {', '.join(near)}."


def _read(file: JsonlFile, *, text_key: str, id_key: str | None) -> Iterator[Document]:
    num_left_out = 0
    for number, line in _lines(file):
        document = None
        if line.strip():
            place = f"{file.name}:{number}"
            document = row_document(
                _parsed(line, file, number), place, text_key=text_key, id_key=id_key
            )
        if document is None:
            num_left_out += 1
        else:
            yield document
    if num_left_out:
        logger.info("left out %d lines without text of %s", num_left_out, file.name)


def _lines(file: JsonlFile) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with _open(file.path) as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(
            f"{file.path} cannot be read after line {number}: {error}. "
            "The file is damaged, cut short or not what its name says; fetch it again."
        ) from error


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


def _parsed(line: bytes, file: JsonlFile, number: int) -> object:
    try:
        return json.loads(line.rstrip(b"\r\n").decode("utf-8"))
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError
        shown = line[:60].decode("utf-8", "replace").strip()
        raise CorpusError(
            f"{file.path}, line {number} is not JSON in UTF-8: {error}. It begins {shown!r}. "
            "Each line must be one JSON object; mend or remove this one."
        ) from error
