"""Documents from JSON Lines files, plain or gzipped: one JSON object per line.

Files are read line by line, so their size does not matter. Ids hold no machine path: a file is
called by its path below the folder that all the files share.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from bathyscope.corpora.documents import Document
from bathyscope.corpora.file_list import CorpusFile, Paths, list_files
from bathyscope.corpora.rows import row_document
from bathyscope.errors import CorpusError

logger = logging.getLogger(__name__)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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


def jsonl_rows(file: CorpusFile) -> Iterator[tuple[int, object]]:
    """Every line that is not blank, by its number from 1, as what it holds.

    Raises `CorpusError` for a line that is no JSON.
    """
    for number, line in _lines(file):
        if line.strip():
            yield number, _parsed(line, file, number)


def jsonl_files(paths: Paths) -> list[CorpusFile]:
    """The files that paths and globs name, each once, sorted by path."""
    return list_files(paths, suffixes=(".jsonl", ".jsonl.gz"), kind="JSONL")


def _read(file: CorpusFile, *, text_key: str, id_key: str | None) -> Iterator[Document]:
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


def _lines(file: CorpusFile) -> Iterator[tuple[int, bytes]]:
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


def _parsed(line: bytes, file: CorpusFile, number: int) -> object:
    try:
        return json.loads(line.rstrip(b"\r\n").decode("utf-8"))
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError
        shown = line[:60].decode("utf-8", "replace").strip()
        raise CorpusError(
            f"{file.path}, line {number} is not JSON in UTF-8: {error}. It begins {shown!r}. "
            "Each line must be one JSON object; mend or remove this one."
        ) from error
