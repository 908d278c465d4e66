"""The kernel's documentation, laid out as Debian's package has it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bathyscope.corpora.linux_doc import linux_doc
from bathyscope.errors import CorpusError


def package(folder: Path, version: str, files: dict[str, str]) -> Path:
    """A folder as /usr/share/doc with one package in it."""
    root = folder / f"linux-doc-{version}" / "Documentation"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return folder


def test_plain_and_gzipped_text_comes_sorted_by_name_and_the_rest_is_left_out(
    tmp_path: Path,
) -> None:
    files = {"mm/slab.rst.gz": "Slabs.", "a.txt": "First.", "b.svg": "<svg/>", "empty.rst": " \n"}
    documents, record = linux_doc(str(package(tmp_path, "6.1", files)))
    assert [(d.id, d.text) for d in documents] == [
        ("linux_doc:a.txt", "First."),
        ("linux_doc:mm/slab.rst", "Slabs."),
    ]
    assert record["files"] == 3


def test_the_newest_of_several_packages_is_taken_and_a_folder_of_text_as_it_is(
    tmp_path: Path,
) -> None:
    package(tmp_path, "6.9", {"a.rst": "old"})
    package(tmp_path, "6.10", {"a.rst": "new"})
    assert [d.text for d in linux_doc(str(tmp_path))[0]] == ["new"]
    for given in (tmp_path / "linux-doc-6.9", tmp_path / "linux-doc-6.9" / "Documentation"):
        assert [d.text for d in linux_doc(str(given))[0]] == ["old"]


def test_the_record_knows_names_and_bytes_and_no_path(tmp_path: Path) -> None:
    one = linux_doc(str(package(tmp_path / "one", "6.1", {"a.rst": "text"})))[1]
    assert linux_doc(str(package(tmp_path / "two", "6.1", {"a.rst": "text"})))[1] == one
    assert linux_doc(str(package(tmp_path / "three", "6.1", {"a.rst": "texts"})))[1] != one
    assert linux_doc(str(package(tmp_path / "four", "6.1", {"b.rst": "text"})))[1] != one
    assert str(tmp_path) not in str(one)


def test_without_the_package_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds no kernel documentation.*apt-get install linux"):
        linux_doc(str(tmp_path))
    (tmp_path / "Documentation").mkdir()
    with pytest.raises(CorpusError, match=r"holds no \.rst or \.txt file.*apt-get"):
        linux_doc(str(tmp_path))


@pytest.mark.parametrize(
    "data",
    [b"no gzip", gzip.compress(b"\xff\xfe"), gzip.compress(b"x")[:-9]],
    # Bytes of gzip hold the time, and a test is known by one name in all processes.
    ids=["no gzip", "no utf-8", "cut"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, data: bytes) -> None:
    package(tmp_path, "6.1", {"a.rst": "fine"})
    (tmp_path / "linux-doc-6.1" / "Documentation" / "b.rst.gz").write_bytes(data)
    documents, _ = linux_doc(str(tmp_path))
    with pytest.raises(CorpusError, match=r"b\.rst\.gz cannot be read"):
        list(documents)
