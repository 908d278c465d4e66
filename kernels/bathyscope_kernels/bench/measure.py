"""Times ways to do the same thing in turns, and meters the memory that each one takes.

All ways run in one process, round by round, each round on another input and starting with another
way, so that a slow spell or a warm cache favours none. The result is the median over the rounds,
with the smallest and the largest time as the spread.
"""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class Skip(Exception):
    """Says why a way, or a whole row, is left out."""


class Way(NamedTuple):
    """One way to do the work of a case."""

    run: Callable[..., Any]
    """Takes an input, or what `setup` made of it."""
    setup: Callable[..., tuple[Any, ...]] | None = None
    """Not timed: a forward pass, a copy of a state that `run` changes."""
    per_second: tuple[float, str] | None = None
    """What `run` gets done and its unit, for a rate beside the time: (1e12, "TFLOP")."""

    def arguments(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return given if self.setup is None else self.setup(*given)


class Times(NamedTuple):
    """Milliseconds of one way over its rounds."""

    median_ms: float
    min_ms: float
    max_ms: float
    rounds: int


class Effort(NamedTuple):
    """How long to measure a row: about `seconds`, between `least` and `most` rounds."""

    seconds: float
    least: int
    most: int


FULL = Effort(seconds=3.0, least=3, most=50)
QUICK = Effort(seconds=0.1, least=2, most=3)


def time_ms(run: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one call; on CUDA between two events, so waiting on the host counts too."""
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - started)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end)


def take_turns(
    ways: Mapping[str, Way],
    inputs: Sequence[tuple[Any, ...]],
    device: torch.device,
    effort: Effort,
    estimate_s: float,
) -> dict[str, Times]:
    """Time all ways; `estimate_s` is what one round takes, set-up included."""
    rounds = int(effort.seconds / max(estimate_s, 1e-6))
    rounds = min(max(rounds, effort.least), effort.most)
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        given = inputs[turn % len(inputs)]
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(_time_way(ways[name], given, device))
    return {
        name: Times(statistics.median(times), min(times), max(times), rounds)
        for name, times in found.items()
    }


def _time_way(way: Way, given: tuple[Any, ...], device: torch.device) -> float:
    arguments = way.arguments(given)
    return time_ms(lambda: way.run(*arguments), device)


def warm_up(way: Way, given: tuple[Any, ...], device: torch.device) -> float:
    """Run a way, on CUDA twice as the first time compiles, and return the seconds it took."""
    seconds = 0.0
    for _ in range(2 if device.type == "cuda" else 1):
        started = time.perf_counter()
        arguments = way.arguments(given)
        way.run(*arguments)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return seconds


def peak_bytes(way: Way, given: tuple[Any, ...], device: torch.device) -> int | None:
    """Return the most memory of one run beside its inputs, its result included.

    On a CPU it is the growth of the resident set, and None where the kernel does not tell.
    """
    arguments = way.arguments(given)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        way.run(*arguments)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    _return_freed_memory()
    try:
        _CLEAR_REFS.write_text("5")  # the peak starts from here
        before = _resident("VmRSS")
        way.run(*arguments)
        return max(0, _resident("VmHWM") - before)
    except (OSError, LookupError):
        return None


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory can still be taken; None if the system does not tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def require_memory(needed: float, device: torch.device) -> None:
    """Raise Skip if that many bytes, and a tenth of the free memory, are not there."""
    free = free_bytes(device)
    if free is not None and needed > 0.9 * free:
        raise Skip(f"needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


def _return_freed_memory() -> None:
    """Have the allocator give back what is free, or the next run would grow into it unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"no field {field} in {_STATUS}")
