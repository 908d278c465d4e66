"""Where installed packages keep their source, and which version that is; nothing is imported.

Besides import names there are two names of our own: "stdlib", the standard library without its
test suites, and "topics", the language reference that `help()` prints.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from bathyscope.errors import ConfigError, CorpusError

STANDARD_LIBRARY = "stdlib"
TOPICS = "topics"

# Packages whose documentation is worth reading, offered when a name is not installed.
_KNOWN = ("numpy", "pandas", "scipy", "sklearn", "sympy", "torch", "transformers")

_TEST_SUITES = ("test", "tests", "idlelib", "lib2to3", "turtledemo")
_SKIPPED_FOLDERS = frozenset(("site-packages", "dist-packages", "__pycache__", *_TEST_SUITES))


class SourceFile(NamedTuple):
    """A Python file of a package."""

    path: Path
    name: str
    """Path below the package's parent folder, with forward slashes: "numpy/lib/x.py"."""


def source_files(package: str) -> list[SourceFile]:
    """Return the package's Python files sorted by name, without test suites.

    Raises `CorpusError` when it is not installed or has no Python source.
    """
    if package == STANDARD_LIBRARY:
        files = list(_walk(_standard_library(), below=_standard_library()))
    elif package == TOPICS:
        path = _standard_library() / "pydoc_data" / "topics.py"
        files = [SourceFile(path, "pydoc_data/topics.py")] if path.is_file() else []
    else:
        files = [file for root in _roots(package) for file in _walk(root, below=root.parent)]
    if not files:
        raise CorpusError(
            f"The package '{package}' holds no Python source to read docstrings from. "
            f"Choose among {_installed()}."
        )
    return sorted(files, key=lambda file: (file.name, file.path))


def version_of(package: str) -> str:
    """Return the version that decides a package's text.

    Python's own for the standard library. For code without a version, and for an editable
    install, whose files change under one version, a digest of the files is given or added.
    Raises `CorpusError` when the package is not installed.
    """
    if package in (STANDARD_LIBRARY, TOPICS) or package in sys.stdlib_module_names:
        return platform.python_version()
    _roots(package)
    distribution = _distribution(package)
    if distribution is None:
        return f"unversioned+{_content_digest(package)}"
    if _is_editable(distribution):
        return f"{distribution.version}+{_content_digest(package)}"
    return distribution.version


def _roots(package: str) -> list[Path]:
    """Return the package's folders, or its one file."""
    # find_spec imports the parents of a dotted name, and relative names mean nothing here.
    if not package.isidentifier():
        raise ConfigError(
            f"'{package}' is no top-level package name. Give import names such as 'torch', or "
            f"'{STANDARD_LIBRARY}' or '{TOPICS}'."
        )
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module that is loaded without a spec, such as __main__
        spec = None
    if spec is None:
        raise CorpusError(
            f"The package '{package}' is not installed, so it has no documentation to read. "
            f"Installed here are {_installed()}; choose among them or install '{package}'."
        )
    if spec.submodule_search_locations is not None:
        return sorted({Path(folder) for folder in spec.submodule_search_locations})
    return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []


def _walk(root: Path, *, below: Path) -> Iterator[SourceFile]:
    if root.is_file():
        yield SourceFile(root, root.relative_to(below).as_posix())
    for folder, subfolders, names in os.walk(root):
        # Pruned in place: the standard library's folder holds all of site-packages.
        subfolders[:] = [each for each in subfolders if each not in _SKIPPED_FOLDERS]
        for name in names:
            path = Path(folder, name)
            # Editors leave dangling links such as .#x.py behind.
            if name.endswith(".py") and path.is_file():
                yield SourceFile(path, path.relative_to(below).as_posix())


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _installed() -> str:
    present = [name for name in _KNOWN if importlib.util.find_spec(name) is not None]
    return ", ".join([STANDARD_LIBRARY, TOPICS, *present])


def _distribution(package: str) -> importlib.metadata.Distribution | None:
    """Return the distribution that installed an import name, which may be called otherwise."""
    try:
        return importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(package)
        return importlib.metadata.distribution(names[0]) if names else None


def _is_editable(distribution: importlib.metadata.Distribution) -> bool:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable", False))


def _content_digest(package: str) -> str:
    digest = blake2b(digest_size=8)
    for file in source_files(package):
        digest.update(os.fsencode(file.name) + b"\0")
        digest.update(blake2b(file.path.read_bytes()).digest())
    return digest.hexdigest()
