import hashlib
import importlib.util
import json
import platform
from pathlib import Path

import pytest

from bathyscope.corpora.documents import Document
from bathyscope.corpora.sources import open_source, open_sources
from bathyscope.errors import ConfigError, DependencyError


def test_documentation_records_the_versions(tmp_path: Path) -> None:
    documents, record = open_source("documentation", {"packages": ["json"]}, tmp_path)
    assert "json:json/__init__.py:dump" in {each.id for each in documents}
    assert record == {
        "kind": "documentation",
        "versions": {"json": platform.python_version()},
        "min_chars": 200,
    }
    shorter, record = open_source(
        "documentation", {"packages": ["json"], "min_chars": 20}, tmp_path
    )
    assert len(list(shorter)) > len(list(documents))
    assert record["min_chars"] == 20


def test_jsonl_records_sizes_and_digests_without_the_path_of_this_machine(tmp_path: Path) -> None:
    text = b'{"body": "one"}\n'
    (tmp_path / "a.jsonl").write_bytes(text)
    options = {"paths": [str(tmp_path / "*.jsonl")], "text_key": "body"}
    documents, record = open_source("jsonl", options, tmp_path)
    assert list(documents) == [Document("a.jsonl:1", "one")]
    assert record == {
        "kind": "jsonl",
        "files": [
            {
                "path": "a.jsonl",
                "bytes": 16,
                "digest": hashlib.blake2b(text, digest_size=16).hexdigest(),
            }
        ],
        "text_key": "body",
        "id_key": None,
    }
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.skipif(
    importlib.util.find_spec("datasets") is not None, reason="the package datasets is installed"
)
def test_hf_without_datasets_is_a_dependency_error(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=r"bathyscope\[hf\]"):
        open_source("hf", {"name": "some/dataset", "split": "train"}, tmp_path)


def test_unknown_names_are_refused_with_those_that_come_near(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source 'json'. Did you mean jsonl\?"):
        open_source("json", {}, tmp_path)
    with pytest.raises(
        ConfigError,
        match=r"chat, documentation, hf, jsonl, linux_doc, nlp_corpus, parquet, tokens_bin\.",
    ):
        open_source("video", {}, tmp_path)
    with pytest.raises(ConfigError, match=r"no option 'path'. Did you mean paths\?"):
        open_source("jsonl", {"path": "a.jsonl"}, tmp_path)


def test_a_missing_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'hf' needs name, split"):
        open_source("hf", {}, tmp_path)


def test_several_sources_come_one_after_the_other_with_the_records_of_all(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n')
    guide = tmp_path / "linux-doc-6.1" / "Documentation" / "guide.rst"
    guide.parent.mkdir(parents=True)
    guide.write_text("second")
    one = ("jsonl", {"paths": [str(tmp_path / "a.jsonl")]})
    two = ("linux_doc", {"folder": str(tmp_path)})
    documents, record = open_sources([one, two], tmp_path)
    assert [document.text for document in documents] == ["first", "second"]
    assert record["kind"] == "several"
    assert record["sources"] == [open_source(*each, tmp_path)[1] for each in (one, two)]
    # A corpus of one source keeps the record, and with it the identity, that it had.
    assert open_sources([one], tmp_path)[1] == open_source(*one, tmp_path)[1]
