"""The dtype is chosen by what the hardware multiplies natively."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bathyscope.errors import ModelError
from bathyscope.models.precision import (
    cpu_flags,
    default_device_kind,
    device_fingerprint,
    resolve_dtype,
)


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ({"avx2"}, torch.float32),
        ({"avx2", "avx512f"}, torch.float32),
        ({"avx512_bf16"}, torch.bfloat16),
        ({"amx_bf16"}, torch.bfloat16),
        ({"asimd", "bf16"}, torch.bfloat16),
        (set(), torch.float32),
    ],
)
def test_cpu_without_native_units_stays_in_float32(flags: set[str], dtype: torch.dtype) -> None:
    chosen, reason = resolve_dtype("auto", "cpu", flags=frozenset(flags))
    assert chosen == dtype
    assert "native bfloat16 units" in reason


def test_other_kinds_of_device() -> None:
    assert resolve_dtype("auto", "mps")[0] == torch.float32
    if not torch.cuda.is_available():
        assert resolve_dtype("auto", "cuda")[0] == torch.bfloat16


@pytest.mark.parametrize("name", ["bfloat16", "float32", "float16"])
def test_what_is_set_is_taken(name: str) -> None:
    assert resolve_dtype(name, "cpu", flags=frozenset()) == (getattr(torch, name), "as set")


def test_unknown_dtype() -> None:
    with pytest.raises(ModelError, match="Unknown dtype 'int4'; wanted auto, float32"):
        resolve_dtype("int4", "cpu")


def test_flags_of_both_families_of_processors(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\nprocessor : 1\nflags : x\n")
    assert cpu_flags(listing) == {"fpu", "avx2", "amx_bf16"}
    listing.write_text("processor : 0\nFeatures : fp asimd bf16\n")
    assert cpu_flags(listing) == {"fp", "asimd", "bf16"}
    listing.write_text("nothing here\n")
    assert cpu_flags(listing) == frozenset()
    assert cpu_flags(tmp_path / "absent") == frozenset()


def test_fingerprint_says_what_changes_bits() -> None:
    fingerprint = device_fingerprint()
    assert fingerprint["device_kind"] == "cpu"
    assert fingerprint["threads"] == torch.get_num_threads()
    assert fingerprint["torch"] == torch.__version__
    assert fingerprint["cpu_capability"]
    assert default_device_kind() in ("cpu", "cuda")
