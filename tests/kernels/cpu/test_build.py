"""Building the library: cached, atomic, and its absence is said once and costs only speed."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path

import pytest

from bathyscope_kernels.cpu import library as module
from bathyscope_kernels.cpu.build import BuildError, build, find_compiler


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BATHYSCOPE_KERNELS_CACHE", str(tmp_path / "cache"))
    try:
        find_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    return tmp_path / "cache"


def test_a_library_is_built_once_and_nothing_else_stays(cache: Path) -> None:
    path = build()
    made = path.stat().st_mtime_ns
    assert build() == path
    assert path.stat().st_mtime_ns == made
    assert [p.name for p in cache.iterdir()] == [path.name]
    assert ctypes.CDLL(str(path)).bathyscope_candidate_bytes() == 12


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="looked for no-such-compiler on PATH"):
        build()


def test_a_compiler_that_fails_is_quoted(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'disk on fire' >&2; exit 3\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(BuildError, match="disk on fire"):
        build()
    assert list(cache.iterdir()) == []


def test_without_a_library_torch_does_the_work_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    module.library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="bathyscope_kernels"):
            assert module.library() is None
            assert module.library() is None
    finally:
        module.library.cache_clear()
    assert len(caplog.records) == 1
    assert "run in torch, which is slower: no C++ compiler" in caplog.text


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATHYSCOPE_KERNELS_NATIVE", "0")
    module.library.cache_clear()
    try:
        assert module.library() is None
    finally:
        module.library.cache_clear()
