"""All GPU kernels compile for sm_90 without a GPU."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed here, so there is no compiler")


def _run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "bathyscope_kernels.aot", *arguments],
        env=environment | variables, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_every_kernel_compiles_within_its_budget() -> None:
    done = _run("--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["failed"] == []
    assert summary["architecture"] == "sm_90"
    assert summary["compiled"] == summary["kernels"] >= 7


def test_refuses_to_compile_interpreted_kernels() -> None:
    done = _run(TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "env -u TRITON_INTERPRET" in done.stderr


def test_names_what_is_wrong_with_a_kernel() -> None:
    script = """
from dataclasses import replace
from bathyscope_kernels import aot
from bathyscope_kernels.gpu import best_rows
from bathyscope_kernels.gpu.runtime import KERNELS
kernel, (first, *_) = KERNELS["write_rows"]
for other in (
    first,
    replace(first, expected_mma=True),
    replace(first, spill_bytes=-1),
    replace(first, signature={}),
    replace(first, num_warps=3),
):
    print(aot.check("write_rows", kernel, other).problem)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    fine, no_matrix, stack, arguments, warps = done.stdout.split("\n")[:5]
    assert fine == ""
    assert no_matrix == "no matrix instruction"
    assert stack == "stack of 0 bytes, budget -1"
    assert arguments.startswith("ValueError: the configuration differs from the arguments in ['be")
    assert "num_warps" in warps
