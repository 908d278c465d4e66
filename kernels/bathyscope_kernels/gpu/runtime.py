"""What every kernel module shares: Triton if it is there, its interpreter, the list of kernels.

Flow: a module takes `triton` and `tl` from here, defines kernels, and enters each of them with
`register`; `bathyscope_kernels.aot` compiles what was entered. A launching function calls
`check_device` first and launches inside `on_device`. Without Triton everything still imports, and
`check_device` says what is missing.

The rule for bfloat16: the interpreter does arithmetic on its bits as if they were integers, so a
kernel passes what it loads through `upcast` at once, with INTERPRET as a constexpr argument.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class _Missing:
    """Stands for `triton` and `tl` where they are not installed: decorators leave functions be."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments: Any, **_: Any) -> Any:
        return arguments[0] if arguments else self


# Today's default, said aloud: Triton 3.9 warns where it is not said, and 3.10 changes it.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

try:
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ImportError:
    triton = tl = _Missing()
    HAS_TRITON = False

INTERPRET = HAS_TRITON and os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")
"""Whether kernels run in Triton's interpreter. Read once: Triton too decides at import."""


@triton.jit
def upcast(loaded, INTERPRET: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return bfloat16 as float32 in the interpreter, and anything else as it is."""
    if INTERPRET and loaded.dtype == tl.bfloat16:
        result = loaded.to(tl.float32)
    else:
        result = loaded
    return result


def check_device(*tensors: Tensor) -> None:
    """Raise unless kernels can run on all of the tensors: RuntimeError without Triton, ValueError
    for tensors on several devices or on one that is not CUDA (CPU too with TRITON_INTERPRET=1).
    """
    if not HAS_TRITON:
        raise RuntimeError(
            "a Triton kernel was called, but triton is not installed; pip install 'triton>=3.6' "
            "or call the function of the same name in bathyscope_kernels"
        )
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        raise ValueError(
            f"got tensors on {', '.join(devices)}, wanted one device; move them with .to(device)"
        )
    kinds = {tensor.device.type for tensor in tensors}
    if kinds - ({"cuda", "cpu"} if INTERPRET else {"cuda"}):
        raise ValueError(
            f"got tensors on {devices[0]}, wanted a CUDA device: Triton kernels run there only, or "
            "slowly on the CPU with TRITON_INTERPRET=1 set before Python starts; else call the "
            "function of the same name in bathyscope_kernels"
        )


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which kernels launch on the device of `tensor`, not on the current."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


@dataclass(frozen=True)
class Configuration:
    """One way to compile a kernel, as it is launched somewhere."""

    signature: Mapping[str, str]
    """Type of each argument that is not a constexpr: "*fp32", "*bf16", "i32", "i64", "fp32". A
    suffix ":16" says that the pointer or integer is a multiple of 16, as Triton finds at a launch
    for most."""
    constexprs: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    expected_mma: bool = False
    """Whether the machine code must hold matrix instructions."""
    spill_bytes: int = 0
    """Bytes of stack per thread that it may use."""


KERNELS: dict[str, tuple[Any, tuple[Configuration, ...]]] = {}
"""Name -> kernel and its configurations; the first one is what a quick check compiles."""


def register(name: str, kernel: Any, configurations: Sequence[Configuration]) -> None:
    """Enter a kernel for the ahead-of-time check.

    Raises ValueError for a name that another kernel has or without a configuration.
    """
    if name in KERNELS:
        raise ValueError(f"a kernel named {name!r} is registered already, wanted another name")
    if not configurations:
        raise ValueError(f"kernel {name!r} was registered without a configuration, wanted one")
    KERNELS[name] = (kernel, tuple(configurations))
