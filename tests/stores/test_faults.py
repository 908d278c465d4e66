"""Every way of hurting a store, once; `tests/benchmarks/store_faults.py` tries each many times."""

import random

import pytest

from faults import KINDS, can_mount


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_survives(kind, tmp_path):
    if kind == "disk_full" and not can_mount():
        pytest.skip("a small file system can be mounted by root alone")
    KINDS[kind](tmp_path, random.Random(f"{kind}-test"))
