import gzip
import json
import logging
from pathlib import Path

import pytest

from bathyscope.corpora.documents import Document
from bathyscope.corpora.jsonl import jsonl
from bathyscope.errors import ConfigError, CorpusError


def write(path: Path, *lines: object) -> Path:
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_files_and_globs_are_read_in_order_of_their_paths(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", {"text": "three"})
    write(tmp_path / "a" / "x.jsonl.gz", {"text": "one"}, {"text": "two"})
    paths = [tmp_path / "b.jsonl", str(tmp_path / "**" / "*.jsonl*")]
    assert list(jsonl(paths)) == [
        Document("a/x.jsonl.gz:1", "one"),
        Document("a/x.jsonl.gz:2", "two"),
        Document("b.jsonl:1", "three"),
    ]


def test_keys_can_be_chosen_and_a_number_can_be_an_id(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"body": "one", "key": 7}, {"body": "two", "key": "k"})
    assert list(jsonl(path, text_key="body", id_key="key")) == [
        Document("7", "one"),
        Document("k", "two"),
    ]


def test_blank_lines_and_empty_texts_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\n{"text": " \\n"}\n{"text": "two"}')
    with caplog.at_level(logging.INFO):
        assert [each.id for each in jsonl(path)] == ["a.jsonl:1", "a.jsonl:4"]
    assert "left out 2 lines" in caplog.text


def test_an_empty_file_gives_nothing(tmp_path: Path) -> None:
    assert list(jsonl(write(tmp_path / "a.jsonl"))) == []


def test_a_name_with_brackets_is_no_glob(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1].jsonl", {"text": "one"})
    assert list(jsonl(str(path))) == [Document("a[1].jsonl:1", "one")]


def test_a_link_keeps_its_own_name(tmp_path: Path) -> None:
    target = write(tmp_path / "blobs" / "0a1b.gz", {"text": "one"})
    (tmp_path / "a.jsonl.gz").symlink_to(target)
    assert list(jsonl(tmp_path / "a.jsonl.gz")) == [Document("a.jsonl.gz:1", "one")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "cut', r"a\.jsonl, line 2 is not JSON in UTF-8: Unterminated string"),
        (b'{"text": "\xff"}', r"a\.jsonl, line 2 is not JSON in UTF-8: 'utf-8' codec"),
        (b"[" * 100_000, r"a\.jsonl, line 2 is not JSON in UTF-8: maximum recursion"),
        (b'["text"]', r"a\.jsonl:2 is a list; an object with the key 'text'"),
        (b'{"body": 1, "id": 2}', r"a\.jsonl:2 has no 'text'; it has 'body', 'id'"),
        (b"{}", r"a\.jsonl:2 has no 'text'; it has no keys at all"),
        (b'{"text": null}', r"a\.jsonl:2 has a NoneType under 'text'; text was wanted"),
    ],
)
def test_a_bad_line_is_named_with_what_was_wrong(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    documents = jsonl(path)
    assert next(documents).text == "good"
    with pytest.raises(CorpusError, match=message):
        next(documents)


def test_a_bad_or_missing_id_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "one", "key": [1]})
    with pytest.raises(CorpusError, match=r"a\.jsonl:1 has a list under 'key'"):
        list(jsonl(path, id_key="key"))
    with pytest.raises(CorpusError, match=r"has no 'name'.*Set id_key"):
        list(jsonl(path, id_key="name"))


def test_a_path_that_matches_nothing_is_an_error_at_once(tmp_path: Path) -> None:
    write(tmp_path / "train-00.jsonl")
    write(tmp_path / "other.txt")
    with pytest.raises(CorpusError, match=r"Near matches in '.*': train-00\.jsonl\."):
        jsonl(str(tmp_path / "trian-00.jsonl"))
    with pytest.raises(CorpusError, match=r"Near matches in '.*': train-00\.jsonl\."):
        jsonl(str(tmp_path / "*.json"))
    with pytest.raises(CorpusError, match=r"There is no folder '.*none'; what exists of it"):
        jsonl(str(tmp_path / "none" / "*.jsonl"))
    with pytest.raises(CorpusError, match=r"It is a folder; give a glob such as"):
        jsonl(str(tmp_path))
    with pytest.raises(ConfigError, match="No JSONL path"):
        jsonl([])


def test_a_folder_without_jsonl_says_so(tmp_path: Path) -> None:
    write(tmp_path / "other.txt")
    with pytest.raises(CorpusError, match="There is no JSONL file in"):
        jsonl(str(tmp_path / "*.jsonl"))


@pytest.mark.parametrize("keep", [5, 40])
def test_a_damaged_gzip_file_is_an_error_that_says_how_far_it_got(
    tmp_path: Path, keep: int
) -> None:
    path = write(tmp_path / "a.jsonl.gz", *({"text": f"line {n * n}"} for n in range(50)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorpusError, match=r"a\.jsonl\.gz cannot be read after line \d+"):
        list(jsonl(path))


def test_a_plain_file_called_gz_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_text('{"text": "one"}')
    with pytest.raises(CorpusError, match="Not a gzipped file"):
        list(jsonl(tmp_path / "a.jsonl.gz"))
