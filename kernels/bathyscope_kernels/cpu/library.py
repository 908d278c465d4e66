"""The compiled library, loaded once, and how its functions are called on tensors."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels.cpu.build import BuildError, build

_log = logging.getLogger("bathyscope_kernels")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, or None where it cannot be had; said once, with the reason.

    BATHYSCOPE_KERNELS_NATIVE=0 turns it off.
    """
    if os.environ.get("BATHYSCOPE_KERNELS_NATIVE") == "0":
        _log.info("CPU operations run in torch: BATHYSCOPE_KERNELS_NATIVE is 0")
        return None
    try:
        loaded = ctypes.CDLL(str(build()))
    except (BuildError, OSError) as error:
        _log.warning("CPU operations run in torch, which is slower: %s", error)
        return None
    loaded.bathyscope_candidate_bytes.restype = ctypes.c_int64
    loaded.bathyscope_rows_by_latent.restype = ctypes.c_int64
    for name in ("above_bf16", "above_fp32"):
        getattr(loaded, f"bathyscope_{name}").restype = ctypes.c_void_p
    _log.info("CPU operations run in compiled C++")
    return loaded


def call(name: str, *arguments: Tensor | int | float | ctypes.c_int | None) -> Any:
    """Call `bathyscope_<name>`: tensors by address, integers as int64, floats as float32.

    Tensors must be contiguous, unless their stride is an argument too. None is a null pointer.
    """
    loaded = library()
    assert loaded is not None, "callers ask `library` first"
    return getattr(loaded, f"bathyscope_{name}")(*(_argument(a) for a in arguments))


def threads() -> ctypes.c_int:
    """The number of threads that torch would use."""
    return ctypes.c_int(torch.get_num_threads())


def _argument(value: Any) -> Any:
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, bool):
        return ctypes.c_int(value)
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        return ctypes.c_float(value)
    return value
