import importlib.util
import logging
from collections.abc import Iterator, Mapping

import pytest

from bathyscope.corpora.documents import Document
from bathyscope.corpora.hf import hf_dataset, resolved_revision, row_documents
from bathyscope.errors import CorpusError, DependencyError

without_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is not None, reason="the package datasets is installed"
)


def test_rows_become_documents_numbered_from_zero(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": "one"}, {"text": "  "}, {"text": "three", "more": 1}]
    with caplog.at_level(logging.INFO):
        assert list(row_documents(rows, prefix="wiki/en:train", text_key="text")) == [
            Document("wiki/en:train:0", "one"),
            Document("wiki/en:train:2", "three"),
        ]
    assert "left out 1 rows" in caplog.text


def test_a_wrong_text_key_is_an_error_at_once_that_names_the_columns() -> None:
    with pytest.raises(CorpusError, match="w:train:0 has no 'text'; it has 'title', 'body'"):
        row_documents([{"title": "a", "body": "b"}], prefix="w:train", text_key="text")


def test_a_column_without_text_is_an_error() -> None:
    with pytest.raises(CorpusError, match="w:0 has a list under 'tokens'; text was wanted"):
        row_documents([{"tokens": [1, 2]}], prefix="w", text_key="tokens")


def test_no_rows_are_an_error() -> None:
    with pytest.raises(CorpusError, match="w:test has no rows"):
        row_documents([], prefix="w:test", text_key="text")


def test_rows_are_not_read_ahead() -> None:
    read = []

    def rows() -> Iterator[Mapping[str, object]]:
        for number in range(1000):
            read.append(number)
            yield {"text": str(number)}

    documents = row_documents(rows(), prefix="w", text_key="text")
    assert [next(documents).text for _ in range(3)] == ["0", "1", "2"]
    assert read == [0, 1, 2]


@without_datasets
def test_without_datasets_the_error_names_the_extra() -> None:
    with pytest.raises(DependencyError, match=r"pip install 'bathyscope\[hf\]'"):
        hf_dataset("some/dataset", split="train")
    with pytest.raises(DependencyError, match=r"pip install 'bathyscope\[hf\]'"):
        resolved_revision("some/dataset", None)
