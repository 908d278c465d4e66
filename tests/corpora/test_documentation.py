import logging
import os
import sys
from pathlib import Path

import pytest

from bathyscope.corpora import documentation as module
from bathyscope.corpora.documentation import documentation, documentation_versions
from bathyscope.corpora.documents import Document
from bathyscope.errors import ConfigError, CorpusError

LONG = "A sentence of forty characters, exactly!"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    for name, text in {
        "zebra": f'def stripe():\n    """{LONG}"""\n\ndef short():\n    """Short."""\n',
        "apple": f'"""Module.\n\n    {LONG}\n    """\nraise RuntimeError("was imported")\n',
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    return folder


def test_documents_are_sorted_whatever_the_order_of_the_packages(
    site: Path, tmp_path: Path
) -> None:
    wanted = [
        Document("apple:apple/__init__.py:<module>", f"Module.\n\n{LONG}"),
        Document("zebra:zebra/__init__.py:stripe", LONG),
    ]
    packages = ["zebra", "apple", "zebra"]
    assert documentation(packages, min_chars=40, cache_folder=tmp_path / "a") == wanted
    assert documentation(["apple", "zebra"], min_chars=40, cache_folder=tmp_path / "b") == wanted
    assert documentation(["apple", "zebra"], min_chars=41, cache_folder=tmp_path) == wanted[:1]
    assert not {"apple", "zebra"} & sys.modules.keys()


def test_the_second_time_no_file_is_parsed(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = documentation(["zebra"], min_chars=10, cache_folder=tmp_path / "cache")
    (cache,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(module, "file_docstrings", lambda *_, **__: pytest.fail("parsed again"))
    assert documentation(["zebra"], min_chars=10, cache_folder=tmp_path / "cache") == first
    assert list((tmp_path / "cache").iterdir()) == [cache]


def test_a_changed_package_is_read_again(site: Path, tmp_path: Path) -> None:
    documentation(["zebra"], min_chars=10, cache_folder=tmp_path / "cache")
    (site / "zebra" / "__init__.py").write_text('"""Other words."""')
    (document,) = documentation(["zebra"], min_chars=10, cache_folder=tmp_path / "cache")
    assert document.text == "Other words."


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:-20],
        lambda whole: whole.replace(b"forty", b"fifty"),
        lambda whole: b"[]\n",
        lambda whole: b"\xff" + whole,
        lambda whole: whole.replace(b"body_digest", b"no_digest"),
    ],
)
def test_a_damaged_cache_file_is_made_again_with_a_warning(
    site: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    assert callable(damage)
    first = documentation(["zebra"], min_chars=10, cache_folder=tmp_path / "cache")
    (cache,) = (tmp_path / "cache").iterdir()
    whole = cache.read_bytes()
    cache.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert documentation(["zebra"], min_chars=10, cache_folder=tmp_path / "cache") == first
    assert "is damaged" in caplog.text
    assert cache.read_bytes() == whole


def test_a_write_that_fails_leaves_nothing_behind(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        documentation(["zebra"], min_chars=10, cache_folder=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_nothing_long_enough_no_package_and_no_length_are_errors(
    site: Path, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match="No docstring of zebra has 500 characters"):
        documentation(["zebra"], min_chars=500, cache_folder=tmp_path)
    with pytest.raises(ConfigError, match="a list with at least one"):
        documentation([], cache_folder=tmp_path)
    with pytest.raises(ConfigError, match="a list with at least one"):
        documentation("zebra", cache_folder=tmp_path)
    with pytest.raises(ConfigError, match="min_chars is 0"):
        documentation(["zebra"], min_chars=0, cache_folder=tmp_path)
    with pytest.raises(CorpusError, match="'no_such' is not installed"):
        documentation(["zebra", "no_such"], cache_folder=tmp_path)


def test_surrogates_in_a_literal_become_replacement_characters(site: Path, tmp_path: Path) -> None:
    (site / "zebra" / "__init__.py").write_text('"""Half a pair: \\ud800."""')
    for _ in ("parsed", "cached"):
        (document,) = documentation(["zebra"], min_chars=5, cache_folder=tmp_path / "cache")
        assert document.text == "Half a pair: \ufffd."


def test_a_parser_that_dies_is_an_error_that_names_the_package(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bathyscope.corpora.docstrings._MIN_BYTES_PER_PROCESS", 1)
    monkeypatch.setattr("bathyscope.corpora.docstrings._num_cores", lambda: 2)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CorpusError, match="parsed the source of 'zebra' ended with code 1"):
        documentation(["zebra"], min_chars=5, cache_folder=tmp_path / "cache")


def test_the_language_reference_is_there(tmp_path: Path) -> None:
    topics = documentation(["topics"], min_chars=200, cache_folder=tmp_path)
    (statement,) = [each for each in topics if each.id == "topics:assert"]
    assert statement.text.startswith('The "assert" statement\n***')
    assert sum(len(each.text) for each in topics) > 300_000
    assert "pydoc_data.topics" not in sys.modules


def test_topics_of_another_shape_are_refused(tmp_path: Path) -> None:
    (tmp_path / "topics.py").write_text("topics = load()")
    with pytest.raises(CorpusError, match="assigns no dictionary"):
        module._topics(tmp_path / "topics.py")


def test_a_package_of_the_standard_library(tmp_path: Path) -> None:
    documents = {
        each.id: each.text for each in documentation(["json", "heapq"], cache_folder=tmp_path)
    }
    assert documents["json:json/__init__.py:dump"].startswith("Serialize ``obj`` as a JSON")
    assert documents["heapq:heapq.py:merge"].startswith("Merge multiple sorted inputs")
    assert all(len(text) >= 200 for text in documents.values())
    assert list(documents) == sorted(documents)


def test_versions_are_sorted_by_name() -> None:
    assert list(documentation_versions(["torch", "json", "numpy", "json"])) == [
        "json",
        "numpy",
        "torch",
    ]
