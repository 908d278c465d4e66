"""The documentation of the Linux kernel, from Debian's package linux-doc.

It is text in reStructuredText, some of it gzipped by Debian's rules for /usr/share/doc. The
rendered HTML beside it says the same again and is left out.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bathyscope.corpora.documents import Document, well_formed
from bathyscope.errors import CorpusError

FOLDER = "/usr/share/doc"
"""Where Debian puts documentation; a package of another version has a folder of its own."""
_TEXT = re.compile(r"\.(rst|txt)(\.gz)?$")
_ADVICE = (
    "Install it with `apt-get install linux-doc`, or unpack it without installing: `apt-get "
    "download linux-doc-6.1 && dpkg-deb -x linux-doc-6.1_*.deb FOLDER` and "
    "data.linux_doc=FOLDER/usr/share/doc."
)


def linux_doc(folder: str | None = None) -> tuple[Iterator[Document], dict[str, Any]]:
    """The files of the kernel's documentation as documents, sorted by name, and their record.

    `folder` is Debian's documentation folder, a linux-doc-… folder in it, or the folder
    Documentation of a kernel's source. An id is "linux_doc:path below Documentation". Raises
    `CorpusError` where there is no such documentation, with how to get it, and while iterating for
    a file that cannot be read.
    """
    root = _root(Path(folder or FOLDER).expanduser())
    files = sorted(p for p in root.rglob("*") if p.is_file() and _TEXT.search(p.name))
    if not files:
        raise CorpusError(f"{root} holds no .rst or .txt file. {_ADVICE}")
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.blake2b(path.read_bytes()).digest())
    record = {"kind": "linux_doc", "files": len(files), "digest": digest.hexdigest()}
    return _documents(root, files), record


def _root(folder: Path) -> Path:
    """The folder Documentation below one of the folders that may be given."""
    if folder.name == "Documentation" and folder.is_dir():
        return folder
    found = [*folder.glob("Documentation"), *folder.glob("linux-doc*/Documentation")]
    if not found:
        raise CorpusError(
            f"The corpus linux_doc was asked for, and {folder} holds no kernel documentation "
            f"(linux-doc-*/Documentation). {_ADVICE}"
        )
    # Of several versions the newest; names are as in linux-doc-6.1.
    return max(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parent.name)])


def _documents(root: Path, files: list[Path]) -> Iterator[Document]:
    for path in files:
        name = path.relative_to(root).as_posix().removesuffix(".gz")
        try:
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
        except (OSError, EOFError, ValueError) as error:
            raise CorpusError(
                f"{path} cannot be read: {error}. Install the package again, or leave linux_doc "
                "out of data.also."
            ) from error
        if text.strip():
            yield Document(f"linux_doc:{name}", well_formed(text))
