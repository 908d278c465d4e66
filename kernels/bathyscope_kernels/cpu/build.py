"""Compiles the C++ of `src/` into one library, once per machine, source and compiler.

Not torch.utils.cpp_extension: nothing here includes torch's headers, so a second is enough
instead of half a minute, and its lock file stays behind when a build is killed, after which every
later process waits for ever. Here a library is built under another name and then renamed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

_SOURCE = Path(__file__).parent / "src"
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fno-math-errno", "-fopenmp")
_TIMEOUT_S = 300


class BuildError(RuntimeError):
    """There is no compiler, or it refused the source."""


def build() -> Path:
    """Return the path of the library, compiled first where it is not in the cache.

    The cache is BATHYSCOPE_KERNELS_CACHE, else `bathyscope_kernels` in XDG_CACHE_HOME or ~/.cache.
    Raises `BuildError`.
    """
    compiler = find_compiler()
    library = _cache_folder() / f"kernels-{_digest(compiler)}.so"
    if not library.is_file():
        _compile(compiler, library)
    return library


def find_compiler() -> str:
    """The C++ compiler: CXX, else c++, g++ or clang++. Raises `BuildError` if there is none."""
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in wanted:
        found = shutil.which(name)
        if found:
            return found
    raise BuildError(f"no C++ compiler: looked for {', '.join(wanted)} on PATH")


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    chosen = os.environ.get("BATHYSCOPE_KERNELS_CACHE") or base / "bathyscope_kernels"
    folder = Path(chosen).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"cannot make {folder} for the compiled library: {error}") from error
    return folder


def _digest(compiler: str) -> str:
    """Of all that the library depends on: home folders are shared by machines that differ."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    parts = [version, " ".join(_FLAGS).encode(), str(torch.__version__).encode(), _machine()]
    parts += [path.read_bytes() for path in sorted(_SOURCE.iterdir()) if path.is_file()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _machine() -> bytes:
    """The instruction sets, which -march=native follows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return f"{platform.machine()} {flags}".encode()


def _compile(compiler: str, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        sources = sorted(str(path) for path in _SOURCE.glob("*.cpp"))
        _call([compiler, *_FLAGS, "-c", *sources], work)
        objects = sorted(str(path) for path in Path(work).glob("*.o"))
        made = Path(work) / library.name
        _call([compiler, "-shared", "-o", str(made), *objects, *_openmp()], work)
        made.replace(library)


def _openmp() -> list[str]:
    """Torch's own OpenMP runtime where it brings one: two of them would fight for the cores."""
    root = Path(torch.__file__).parent
    folders = (root / "lib", root.parent / "torch.libs")
    bundled = [path for folder in folders for path in sorted(folder.glob("libgomp*.so*"))]
    return [str(bundled[0])] if bundled else ["-fopenmp"]


def _call(command: list[str], folder: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} failed: {error}") from error
    if done.returncode != 0:
        raise BuildError(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")
