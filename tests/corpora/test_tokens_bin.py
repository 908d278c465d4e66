"""Flat files of token ids: documents between separators, however the file is cut into blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bathyscope.corpora import tokens_bin as module
from bathyscope.corpora.documents import Document
from bathyscope.corpora.tokens_bin import tokens_bin
from bathyscope.errors import ConfigError, CorpusError

IDS = [0, 5, 6, 7, 0, 0, 8, 9, 0]


def read(path: Path, dtype: str = "uint16", vocabulary: int = 10) -> list[Document]:
    return list(tokens_bin(str(path), token_dtype=dtype, separator_id=0, vocabulary=vocabulary))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32"])
@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_documents_lie_between_separators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    np.array(IDS, dtype=dtype).tofile(tmp_path / "a.bin")
    found = read(tmp_path, dtype)
    assert [d.token_ids for d in found] == [(5, 6, 7), (8, 9)]
    assert [d.id for d in found] == ["a.bin:1", "a.bin:6"]
    assert found[0].text == "5 6 7"


def test_a_last_document_without_a_separator_counts(tmp_path: Path) -> None:
    np.array([5, 6], dtype=np.uint16).tofile(tmp_path / "a.bin")
    assert [d.token_ids for d in read(tmp_path)] == [(5, 6)]


def test_the_same_ids_have_the_same_digest_wherever_they_lie(tmp_path: Path) -> None:
    np.array([5, 6, 0, 5, 6], dtype=np.uint16).tofile(tmp_path / "a.bin")
    one, other = read(tmp_path)
    assert one.digest == other.digest
    assert one.id != other.id


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    np.array([5, 10], dtype=np.uint16).tofile(tmp_path / "a.bin")
    with pytest.raises(CorpusError, match=r"ids from 5 to 10, and the model's vocabulary has 10"):
        read(tmp_path)
    np.array([-1, 5], dtype=np.int32).tofile(tmp_path / "a.bin")
    with pytest.raises(CorpusError, match="ids from -1 to 5"):
        read(tmp_path, "int32")


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_sizes_that_are_no_whole_number_of_ids_are_refused_at_once(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(CorpusError, match=rf"has {len(content)} bytes.*data\.token_dtype"):
        tokens_bin(str(tmp_path), token_dtype="uint16", separator_id=0, vocabulary=10)


def test_another_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.token_dtype is 'float32'"):
        tokens_bin(str(tmp_path), token_dtype="float32", separator_id=0, vocabulary=10)
