"""Which dtype a model runs in, and what the machine's arithmetic is called in records.

Flows in: a wish from the configuration and a device kind. Flows out: a torch dtype with the reason,
and a fingerprint of whatever changes the last bits of a result.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from bathyscope.errors import ModelError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# x86 names, and the one that ARM uses.
_NATIVE_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def resolve_dtype(
    name: str, device_kind: str, *, flags: frozenset[str] | None = None
) -> tuple[torch.dtype, str]:
    """The dtype that a wish means on a device kind (`cpu`, `cuda`, …), and why.

    `auto` is bfloat16 where the hardware multiplies it natively, else float32: without native
    units a CPU emulates bfloat16 hundreds of times slower (0.3 against 170 GFLOP/s, measured with
    AVX2 alone). `flags` are the CPU's instruction sets, read from the system where not given.
    """
    if name != "auto":
        if name not in DTYPES:
            raise ModelError(f"Unknown dtype {name!r}; wanted auto, {', '.join(DTYPES)}.")
        return DTYPES[name], "as set"
    if device_kind == "cuda":
        if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(
            including_emulation=False
        ):
            return torch.float32, "this GPU has no native bfloat16 units"
        return torch.bfloat16, "GPUs multiply bfloat16 natively"
    if device_kind != "cpu":
        return torch.float32, f"bfloat16 is not chosen by itself on {device_kind}"
    native = _NATIVE_BFLOAT16_FLAGS & (cpu_flags() if flags is None else flags)
    if native:
        return torch.bfloat16, f"this CPU has native bfloat16 units ({', '.join(sorted(native))})"
    return torch.float32, "this CPU has no native bfloat16 units, float32 is much faster"


def default_device_kind() -> str:
    """`cuda` where a GPU can be used, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction sets of the first CPU as Linux lists them; empty where there is no such list."""
    if not path.is_file():
        return frozenset()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def device_fingerprint(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Device kind and name, CPU capability, threads and torch version: JSON for a record."""
    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else platform.machine()
    return {
        "device_kind": kind,
        "device_name": name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
