"""Parquet files: rows become documents, and wrong columns are found before the first row."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bathyscope.corpora.parquet import parquet
from bathyscope.errors import CorpusError


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for part, texts in enumerate((["one", None, "two"], ["  ", "three"])):
        table = pa.table({"text": texts, "id": [f"{part}-{n}" for n in range(len(texts))]})
        pq.write_table(table, tmp_path / f"part-{part}.parquet", row_group_size=2)
    return tmp_path


def test_rows_with_text_are_documents_named_by_file_and_row(files: Path) -> None:
    found = [(d.id, d.text) for d in parquet(f"{files}/*.parquet")]
    assert found == [
        ("part-0.parquet:0", "one"), ("part-0.parquet:2", "two"), ("part-1.parquet:1", "three"),
    ]  # fmt: skip


def test_a_folder_and_an_id_column(files: Path) -> None:
    assert [d.id for d in parquet(str(files), id_key="id")] == ["0-0", "0-2", "1-1"]


def test_a_missing_column_is_an_error_at_once_with_near_matches(files: Path) -> None:
    with pytest.raises(CorpusError, match=r"no column 'texts'\. Did you mean text\?.*data\.text_"):
        parquet(str(files), text_key="texts")
    with pytest.raises(CorpusError, match=r"no column 'name'.*set data\.id_key"):
        parquet(str(files), id_key="name")


def test_numbers_are_no_text(files: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), files / "part-2.parquet")
    with pytest.raises(CorpusError, match=r"part-2\.parquet:0 has a int under 'text'"):
        list(parquet(str(files)))


def test_what_is_no_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet cannot be read as a Parquet file"):
        parquet(str(tmp_path))
    with pytest.raises(CorpusError, match=r"There is no folder"):
        parquet(str(tmp_path / "no" / "*.parquet"))
