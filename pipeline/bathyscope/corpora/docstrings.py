"""Reads docstrings from Python source with `ast`; nothing is imported or run.

Parsing is pure Python and takes a core, so many files are shared out to child processes. A child
is this very file, run as a script with its list of files on standard input. That is safe where
`multiprocessing` is not: nothing forks a process that has threads (a Ray worker has dozens), and
nothing imports the caller's main module again. For that this file needs the standard library only.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

# Starting a child costs about as much as parsing this much source.
_MIN_BYTES_PER_PROCESS = 500_000
_MAX_PROCESSES = 8

# A triple quote that begins a statement. Closing ones on their own line match too, so a file is
# at worst parsed for nothing; it is never left out wrongly.
_OPENING = re.compile(rb"(?:^|[:;(])[ \t(]*[rRuU]?(\"\"\"|''')", re.MULTILINE)


class FileDocstrings(NamedTuple):
    """What one source file holds."""

    docstrings: list[tuple[str, str]]
    """(qualified name, cleaned text) in order of the file; the module's name is "<module>"."""
    problem: str | None
    """Why the file gave nothing: it does not parse or cannot be read."""


def file_docstrings(files: Sequence[Path], *, min_chars: int) -> list[FileDocstrings]:
    """Return the docstrings of at least `min_chars` characters of each file, in order of `files`.

    Docstrings are cleaned as by `inspect.cleandoc` before they are measured. Raises
    `subprocess.CalledProcessError` when a child process dies.
    """
    shares = _shares(files)
    if len(shares) == 1:
        return [_read(path, min_chars) for path in files]
    with ThreadPoolExecutor(len(shares)) as threads:
        results = list(threads.map(lambda share: _read_in_child(share, min_chars), shares))
    by_file = {
        path: found
        for share, result in zip(shares, results, strict=True)
        for path, found in zip(share, result, strict=True)
    }
    return [by_file[path] for path in files]


def source_docstrings(source: bytes, *, min_chars: int) -> list[tuple[str, str]]:
    """Return (qualified name, text) of the docstrings of at least `min_chars` characters.

    Classes and functions inside functions and `if` blocks count. A name that is defined again in
    the file (overloads, property setters) becomes "name#2".

    Raises `SyntaxError` or `ValueError` when the source is not Python of this version.
    """
    if not _may_hold(source, min_chars):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(source)
    found = []
    times: dict[str, int] = {}
    for name, node in _documented(tree, ""):
        # All definitions count, so that an id does not depend on which texts are long enough.
        times[name] = times.get(name, 0) + 1
        text = ast.get_docstring(node, clean=True)
        if text is not None and len(text) >= min_chars:
            found.append((name if times[name] == 1 else f"{name}#{times[name]}", text))
    return found


def _may_hold(source: bytes, min_chars: int) -> bool:
    """Say whether some triple-quoted statement can be long enough, without parsing.

    A character takes at least one byte of source, except where a tab is expanded.
    """
    if b"\t" in source:
        return True
    for opening in _OPENING.finditer(source):
        closing = source.find(opening[1], opening.end())
        if closing - opening.end() >= min_chars:
            return True
    return False


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _documented(node: ast.AST, prefix: str) -> Iterator[tuple[str, _Documented]]:
    """Walk statements only: expressions hold most of the nodes and no docstring."""
    if isinstance(node, ast.Module):
        yield "<module>", node
    elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield prefix + node.name, node
        prefix += node.name + "."
    for block in ("body", "handlers", "orelse", "finalbody", "cases"):
        children = getattr(node, block, ())
        if isinstance(children, list):  # the body of a lambda or conditional is one expression
            for child in children:
                yield from _documented(child, prefix)


def _shares(files: Sequence[Path]) -> list[list[Path]]:
    """Deal the files, largest first, to as many processes as pay; always at least one share."""
    sizes = {path: path.stat().st_size for path in files}
    num_shares = min(sum(sizes.values()) // _MIN_BYTES_PER_PROCESS, _num_cores(), _MAX_PROCESSES)
    if num_shares < 2 or not sys.executable:
        return [list(files)]
    shares: list[list[Path]] = [[] for _ in range(num_shares)]
    loads = [0] * num_shares
    for path in sorted(sizes, key=lambda each: (-sizes[each], each)):
        lightest = loads.index(min(loads))
        shares[lightest].append(path)
        loads[lightest] += sizes[path]
    return shares


def _num_cores() -> int:
    """Return the cores that this process may use, which in a container are not all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read(path: Path, min_chars: int) -> FileDocstrings:
    try:
        return FileDocstrings(source_docstrings(path.read_bytes(), min_chars=min_chars), None)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        return FileDocstrings([], f"{type(error).__name__}: {error}")


def _read_in_child(files: Sequence[Path], min_chars: int) -> list[FileDocstrings]:
    request = json.dumps({"min_chars": min_chars, "files": [str(path) for path in files]})
    # -I and -S: neither the environment nor site-packages, which a parser does not need.
    command = [sys.executable, "-I", "-S", __file__]
    reply = subprocess.run(command, input=request.encode(), stdout=subprocess.PIPE, check=True)
    return [
        FileDocstrings([(name, text) for name, text in docstrings], problem)
        for docstrings, problem in json.loads(reply.stdout)
    ]


def _serve() -> None:
    """Answer one request: JSON on standard input, JSON (ASCII only) on standard output."""
    # Syntax trees hold no cycles; collecting them again and again takes a third of the time.
    gc.disable()
    request = json.load(sys.stdin)
    json.dump([_read(Path(name), request["min_chars"]) for name in request["files"]], sys.stdout)


if __name__ == "__main__":
    _serve()
