"""Which machine, which software, and how fast the machine is: the header of every result."""

import datetime
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from bathyscope_kernels.bench import inputs, peers
from bathyscope_kernels.bench.floors import Rates
from bathyscope_kernels.bench.measure import time_ms

_PACKAGE = Path(__file__).resolve().parents[1]


def identity(device: torch.device) -> dict[str, Any]:
    """What a row depends on beside its shape: rows with another identity are measured again."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "source": _source(),
        "versions": {
            "torch": torch.__version__,
            "triton": _version("triton"),
            **peers.versions(),
        },
    }


def header(device: torch.device, known: dict[str, Any], rates: Rates) -> dict[str, Any]:
    """The identity and what else a reader wants to know."""
    memory = None
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        **known,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "float32_matmul": torch.get_float32_matmul_precision(),
        "python": platform.python_version(),
        "matmul_tflops": rates.flops_per_s / 1e12,
        "copy_gb_per_s": rates.bytes_per_s / 1e9,
    }


def rates(device: torch.device, *, quick: bool) -> Rates:
    """Measure a square matmul, bfloat16 on CUDA and float32 on a CPU, and a copy; the best of some.

    A floor is what the hardware can do, so the fastest round counts, not the median.
    """
    cuda = device.type == "cuda"
    side, dtype = (8192, torch.bfloat16) if cuda else (2048, torch.float32)
    num_bytes = 2**30 if cuda else 2**28
    if quick:
        side, num_bytes = side // 4, num_bytes // 8
    rounds = 3 if quick else 30 if cuda else 8
    left, right = (inputs.normal(side, side, device=device, seed=seed).to(dtype) for seed in (0, 1))
    product = torch.empty_like(left)
    source = inputs.normal(num_bytes // 4, device=device, seed=2)
    target = torch.empty_like(source)
    multiply = min(
        time_ms(lambda: torch.mm(left, right, out=product), device) for _ in range(rounds)
    )
    copy = min(time_ms(lambda: target.copy_(source), device) for _ in range(rounds))
    return Rates(2e3 * side**3 / multiply, 2e3 * num_bytes / copy)


def device_name(device: torch.device) -> str:
    """The name of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def _commit() -> str:
    """What `git describe` says, or "unknown" away from a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=_PACKAGE,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _source() -> str:
    """A digest of the kernels' source: tells uncommitted changes apart, and needs no git."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in (".py", ".cpp", ".h"):
            digest.update(str(path.relative_to(_PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
