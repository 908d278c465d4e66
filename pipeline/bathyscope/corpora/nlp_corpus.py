"""Loose English sentences of many kinds, from the npm package nlp-corpus (MIT).

The package holds JSON files, each a list of sentences that have nothing to do with each other, so
a sentence is a document.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bathyscope.corpora.documents import Document, well_formed
from bathyscope.errors import CorpusError

_BUILD = re.compile(r"(?:^|/)builds/(doc-\d+)\.json$")
_ADVICE = (
    "`npm pack nlp-corpus@4.4.0` fetches nlp-corpus-4.4.0.tgz (4 MB); set data.nlp_corpus to it."
)


def nlp_corpus(path: str | None) -> tuple[Iterator[Document], dict[str, Any]]:
    """The sentences of the package as documents, in the order of its files, and their record.

    `path` is the .tgz that npm packs, or a folder that holds it unpacked. An id is
    "nlp_corpus:file:number". Raises `CorpusError` where it is not there, with how to get it, and
    for a file that is none of the package's.
    """
    if path is None:
        raise CorpusError(f"The corpus nlp_corpus was asked for without its file. {_ADVICE}")
    texts = _texts(Path(path).expanduser())
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(texts):
        digest.update(f"{name}\0".encode() + texts[name])
    record = {"kind": "nlp_corpus", "files": len(texts), "digest": digest.hexdigest()}
    return _documents(texts), record


def _texts(path: Path) -> dict[str, bytes]:
    """The JSON files by name."""
    found: dict[str, bytes] = {}
    try:
        if path.is_dir():
            for file in path.rglob("*.json"):
                if match := _BUILD.search(file.as_posix()):
                    found[match[1]] = file.read_bytes()
        else:
            with tarfile.open(path, "r:gz") as archive:
                for member in archive:
                    if match := _BUILD.search(member.name):
                        file_in = archive.extractfile(member)
                        found[match[1]] = file_in.read() if file_in else b""
    except (OSError, EOFError, tarfile.TarError) as error:
        raise CorpusError(f"The corpus nlp_corpus cannot be read: {error}. {_ADVICE}") from error
    if not found:
        raise CorpusError(f"{path} holds no builds/doc-*.json of nlp-corpus. {_ADVICE}")
    return found


def _documents(texts: dict[str, bytes]) -> Iterator[Document]:
    for name in sorted(texts, key=lambda each: int(each.removeprefix("doc-"))):
        try:
            sentences = json.loads(texts[name])
            if not all(isinstance(each, str) for each in sentences):
                raise ValueError("a list of strings was wanted")
        except (ValueError, TypeError) as error:
            raise CorpusError(
                f"{name}.json of nlp-corpus is damaged: {error}. {_ADVICE}"
            ) from error
        for number, sentence in enumerate(sentences):
            if sentence.strip():
                yield Document(f"nlp_corpus:{name}:{number}", well_formed(sentence))
