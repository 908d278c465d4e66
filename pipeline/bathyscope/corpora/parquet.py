"""Documents from Parquet files, a batch of rows at a time: their size does not matter."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from bathyscope.corpora.documents import Document
from bathyscope.corpora.file_list import CorpusFile, Paths, list_files
from bathyscope.corpora.rows import row_document
from bathyscope.errors import CorpusError

_BATCH_ROWS = 1024


def parquet(
    paths: Paths, *, text_key: str = "text", id_key: str | None = None
) -> Iterator[Document]:
    """Read documents from files or globs, sorted by path; only the columns that are needed.

    An id is the value of `id_key`, else "file name:row number" counted from 0. Rows without text
    are left out. Raises `CorpusError` for a path that matches no file, a file that is no Parquet
    file, and a column that is not there, before the first row is read.
    """
    files = parquet_files(paths)
    opened = [(file, _opened(file, text_key, id_key)) for file in files]
    return (document for file, table in opened for document in _read(file, table, text_key, id_key))


def parquet_files(paths: Paths) -> list[CorpusFile]:
    """The files that paths and globs name, each once, sorted by path."""
    return list_files(paths, suffixes=(".parquet",), kind="Parquet", folders=True)


def _opened(file: CorpusFile, text_key: str, id_key: str | None) -> pq.ParquetFile:
    try:
        opened = pq.ParquetFile(file.path)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{file.path} cannot be read as a Parquet file: {error}") from error
    columns = opened.schema_arrow.names
    for setting, key in (("data.text_key", text_key), ("data.id_key", id_key)):
        if key is not None and key not in columns:
            near = difflib.get_close_matches(key, columns, n=3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise CorpusError(
                f"{file.path} has no column '{key}'.{hint} Its columns are {', '.join(columns)}: "
                f"set {setting} to one of these."
            )
    return opened


def _read(
    file: CorpusFile, opened: pq.ParquetFile, text_key: str, id_key: str | None
) -> Iterator[Document]:
    columns = [key for key in (text_key, id_key) if key is not None]
    number = 0
    try:
        for batch in opened.iter_batches(_BATCH_ROWS, columns=columns):
            for row in batch.to_pylist():
                place = f"{file.name}:{number}"
                number += 1
                if row[text_key] is None:
                    continue
                document = row_document(row, place, text_key=text_key, id_key=id_key)
                if document is not None:
                    yield document
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(
            f"{file.path} cannot be read from row {number} on: {error}. Fetch it again."
        ) from error
