"""The default corpus: the documentation of packages that are already installed.

Docstrings are real prose and code, on every machine, without a download and without a question
of licence, as nothing is redistributed. The same installed versions give the same documents.
Extraction takes seconds, so the documents are kept in a cache file: a first line of JSON says
what follows, then comes one document per line.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from bathyscope.corpora.docstrings import file_docstrings
from bathyscope.corpora.documents import Document, well_formed
from bathyscope.corpora.installed import TOPICS, source_files, version_of
from bathyscope.errors import ConfigError, CorpusError

logger = logging.getLogger(__name__)

# Raised by hand when the same installed files would give other documents.
_FORMAT = 1


def documentation(
    packages: Sequence[str], *, min_chars: int = 200, cache_folder: str | os.PathLike[str]
) -> list[Document]:
    """Return the docstrings of at least `min_chars` characters, sorted by id.

    `packages` are import names, "stdlib" or "topics"; their order and repeats do not matter. An
    id is "package:path:qualified name", as in "numpy:numpy/lib/x.py:Name.method", or "topics:name".
    The cache file is made if it is missing and made again, with a warning, if it is damaged.

    Raises `CorpusError` when a package is not installed or nothing is long enough, `ConfigError`
    when there is no package or `min_chars` is below 1.
    """
    if min_chars < 1:
        raise ConfigError(f"min_chars is {min_chars}; it must be at least 1.")
    # Another Python parses other files and other escapes, so it is part of the key as well.
    key = {
        "format": _FORMAT,
        "python": platform.python_version(),
        "versions": documentation_versions(packages),
        "min_chars": min_chars,
    }
    name = blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()
    path = Path(cache_folder) / f"documentation-{name}.jsonl"
    documents = _cached(path)
    if documents is None:
        documents = _extracted(sorted(set(packages)), min_chars)
        _write(path, key, documents)
    return documents


def documentation_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of each package, sorted by name: what decides the documents.

    Raises `CorpusError` when a package is not installed and `ConfigError` when there is none.
    """
    if isinstance(packages, str) or not packages:
        raise ConfigError(
            f"The packages to read documentation from are {packages!r}; a list with at least one "
            "name was wanted, such as ['stdlib', 'numpy']."
        )
    return {package: version_of(package) for package in sorted(set(packages))}


def _extracted(packages: Sequence[str], min_chars: int) -> list[Document]:
    began = time.monotonic()
    documents = [each for package in packages for each in _read(package, min_chars)]
    if not documents:
        raise CorpusError(
            f"No docstring of {', '.join(packages)} has {min_chars} characters or more. "
            "Lower min_chars or add packages."
        )
    logger.info(
        "read %d docstrings of %s (%.1f M characters) in %.1f s",
        len(documents),
        ", ".join(packages),
        sum(len(each.text) for each in documents) / 1e6,
        time.monotonic() - began,
    )
    return sorted(documents, key=lambda each: each.id)


def _read(package: str, min_chars: int) -> list[Document]:
    files = source_files(package)
    if package == TOPICS:
        return [
            Document(f"{TOPICS}:{name}", well_formed(text))
            for name, text in _topics(files[0].path).items()
            if len(text) >= min_chars
        ]
    documents = []
    try:
        results = file_docstrings([each.path for each in files], min_chars=min_chars)
    except subprocess.CalledProcessError as error:
        raise CorpusError(
            f"A process that parsed the source of '{package}' ended with code {error.returncode} "
            "(negative: the signal that killed it, -9 for lack of memory). What it printed stands "
            f"above. Free memory, or leave '{package}' out of the packages."
        ) from error
    for file, found in zip(files, results, strict=True):
        if found.problem:
            logger.info("left out %s of %s: %s", file.name, package, found.problem)
        documents += [
            Document(well_formed(f"{package}:{file.name}:{name}"), well_formed(text))
            for name, text in found.docstrings
        ]
    return documents


def _topics(path: Path) -> dict[str, str]:
    """Return the dictionary literal assigned to `topics`, without running the file."""
    for statement in ast.parse(path.read_bytes()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="topics")], value=ast.Dict() as literal):
                return {name: text.strip("\n") for name, text in ast.literal_eval(literal).items()}
    raise CorpusError(
        f"{path} assigns no dictionary to 'topics', so this Python's language reference cannot be "
        f"read. Leave '{TOPICS}' out of the packages."
    )


def _cached(path: Path) -> list[Document] | None:
    """Return the documents of a cache file, or None when it is missing or damaged."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if json.loads(head)["body_digest"] != _body_digest(body):
            raise ValueError("its text does not match its digest")
        return [Document(**json.loads(line)) for line in body.splitlines()]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("the cache file %s is damaged (%s): it is made again", path, error)
        return None


def _write(path: Path, key: dict[str, object], documents: Sequence[Document]) -> None:
    """Write a cache file so that a reader sees all of it or none, whoever else writes it."""
    body = b"".join(
        json.dumps({"id": each.id, "text": each.text}).encode() + b"\n" for each in documents
    )
    head = json.dumps({**key, "body_digest": _body_digest(body)}).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(head + body)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _body_digest(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()
