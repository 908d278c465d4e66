"""Documents that are token ids already: flat files of numbers, as pre-training writes them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bathyscope.corpora.documents import Document
from bathyscope.corpora.file_list import CorpusFile, Paths, list_files
from bathyscope.errors import ConfigError, CorpusError

TOKEN_DTYPES = ("uint16", "uint32", "int32")
# Read at once; a document may be longer.
_BLOCK = 2**22


def tokens_bin(
    paths: Paths, *, token_dtype: str, separator_id: int, vocabulary: int
) -> Iterator[Document]:
    """Read documents from files of little-endian ids without a header, parted by a separator.

    The separator itself is in no document: packing puts it before each. An id is "file name:place
    of the first token". Raises `ConfigError` for another dtype, `CorpusError` for a file whose size
    is no whole number of ids, and, while iterating, for an id outside the vocabulary.
    """
    if token_dtype not in TOKEN_DTYPES:
        raise ConfigError(
            f"data.token_dtype is {token_dtype!r}. One of {', '.join(TOKEN_DTYPES)} is wanted."
        )
    dtype = np.dtype(token_dtype).newbyteorder("<")
    files = token_files(paths)
    for file in files:
        size = file.path.stat().st_size
        if size % dtype.itemsize or not size:
            raise CorpusError(
                f"{file.path} has {size} bytes, which are no whole number of {token_dtype} ids. "
                "Set data.token_dtype to the one it was written with."
            )
    return (
        document for file in files for document in _documents(file, dtype, separator_id, vocabulary)
    )


def token_files(paths: Paths) -> list[CorpusFile]:
    """The files that paths and globs name, each once, sorted by path."""
    return list_files(paths, suffixes=(".bin",), kind="token", folders=True)


def _documents(
    file: CorpusFile, dtype: np.dtype[np.integer], separator_id: int, vocabulary: int
) -> Iterator[Document]:
    ids = np.memmap(file.path, dtype=dtype, mode="r")
    rest: list[npt.NDArray[np.int64]] = []
    first = 0
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK].astype(np.int64)
        _check(block, vocabulary, file)
        begin = 0
        for end in np.flatnonzero(block == separator_id).tolist():
            rest.append(block[begin:end])
            yield from _document(file, first, rest)
            rest, begin = [], end + 1
            first = start + begin
        rest.append(block[begin:])
    yield from _document(file, first, rest)


def _document(
    file: CorpusFile, first: int, parts: list[npt.NDArray[np.int64]]
) -> Iterator[Document]:
    ids = np.concatenate(parts) if parts else np.empty(0, np.int64)
    if len(ids):
        numbers = tuple(ids.tolist())
        # The ids as words: repeats are found, and splits are made, as for text.
        yield Document(f"{file.name}:{first}", " ".join(map(str, numbers)), token_ids=numbers)


def _check(block: npt.NDArray[np.int64], vocabulary: int, file: CorpusFile) -> None:
    if block.min() < 0 or block.max() >= vocabulary:
        raise CorpusError(
            f"{file.path} has token ids from {block.min()} to {block.max()}, and the model's "
            f"vocabulary has {vocabulary}. Was it made with another tokenizer, or written in "
            "another data.token_dtype?"
        )
