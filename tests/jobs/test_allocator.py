"""Freed memory stays in the process: seen in page faults, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from bathyscope.jobs.allocator import keep_freed_memory

SCRIPT = """
import resource, sys, torch
from bathyscope.jobs.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
x = torch.ones(2 * 2**20)
for _ in range(20):
    x + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    y = (x + 1) * 2
    del y
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_is_freed_and_asked_for_again_costs_no_page_faults() -> None:
    # Two tensors of 8 MB, a hundred times: 4,096 pages each time where they are given back. A
    # system that is short of memory may take some pages away in between.
    assert faults("keep") < 0.05 * 100 * 4096


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_who_has_set_the_thresholds_knows_better(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1000000")
    assert not keep_freed_memory()
    assert os.environ[name] == "1000000"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not keep_freed_memory()
