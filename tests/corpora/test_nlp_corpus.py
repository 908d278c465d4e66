"""The npm package nlp-corpus: JSON lists of sentences, packed or not."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from bathyscope.corpora.nlp_corpus import nlp_corpus
from bathyscope.errors import CorpusError

FILES = {"doc-10": ["Ten."], "doc-2": ["Two.", " ", "Two and a half."]}


def packed(path: Path, files: dict[str, str]) -> Path:
    """A .tgz as npm packs it."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def contents() -> dict[str, str]:
    files = {f"package/builds/{name}.json": json.dumps(each) for name, each in FILES.items()}
    return {**files, "package/package.json": "{}", "package/builds/index.json": "[]"}


def test_sentences_come_in_the_order_of_the_files_packed_or_not(tmp_path: Path) -> None:
    archive = packed(tmp_path / "nlp-corpus-4.4.0.tgz", contents())
    documents, record = nlp_corpus(str(archive))
    assert [(d.id, d.text) for d in documents] == [
        ("nlp_corpus:doc-2:0", "Two."),
        ("nlp_corpus:doc-2:2", "Two and a half."),
        ("nlp_corpus:doc-10:0", "Ten."),
    ]
    for name, text in contents().items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert nlp_corpus(str(tmp_path / "folder"))[1] == record


def test_without_the_package_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"without its file\. `npm pack nlp-corpus@4\.4\.0`"):
        nlp_corpus(None)
    with pytest.raises(CorpusError, match=r"cannot be read.*No such file.*npm pack"):
        nlp_corpus(str(tmp_path / "absent.tgz"))
    with pytest.raises(CorpusError, match=r"holds no builds/doc-\*\.json.*npm pack"):
        nlp_corpus(str(tmp_path))
    (tmp_path / "no.tgz").write_bytes(b"no archive")
    with pytest.raises(CorpusError, match=r"cannot be read.*npm pack"):
        nlp_corpus(str(tmp_path / "no.tgz"))


@pytest.mark.parametrize("text", ["[1]", "{", "3"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    archive = packed(tmp_path / "a.tgz", {"package/builds/doc-7.json": text})
    with pytest.raises(CorpusError, match=r"doc-7\.json of nlp-corpus is damaged"):
        list(nlp_corpus(str(archive))[0])
