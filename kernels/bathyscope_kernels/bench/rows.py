"""Measures one case and makes a row of it: a dictionary that goes to JSON as it is."""

import gc
from typing import Any

import torch

from bathyscope_kernels.bench import measure
from bathyscope_kernels.bench.case import MATMUL, OURS, Case
from bathyscope_kernels.bench.cases import DEVICE, OPERATIONS
from bathyscope_kernels.bench.floors import Rates, floor_ms
from bathyscope_kernels.bench.measure import Effort, Skip, Way
from bathyscope_kernels.bench.shapes import Shape

Row = dict[str, Any]


def measure_row(
    operation: str, shape: Shape, device: torch.device, rates: Rates, effort: Effort
) -> Row:
    """Return the row of one operation at one shape.

    `ways` holds times and memory by name, `skipped` the reasons of those left out, "inputs" for
    all of them; `failed` says whether an error other than a lack of memory ended what is ours.
    """
    row: Row = {
        "operation": operation,
        "shape": shape.label,
        "title": shape.title,
        **shape._asdict(),
        "dtype": str(shape.dtype).removeprefix("torch."),
        "ways": {},
        "skipped": {},
        "failed": False,
    }
    try:
        case = {**OPERATIONS, **DEVICE}[operation](shape, device)
    except Exception as error:
        _leave_out("inputs", error, row)
        return row
    row["dtype"] = str(case.dtype).removeprefix("torch.")
    row["floor_ms"], row["floor_by"] = floor_ms(case.phases, rates)
    _measure_ways(case, device, effort, row)
    _measure_error(case, row)
    _add_ratios(row)
    del case
    _free(device)
    return row


def _measure_ways(case: Case, device: torch.device, effort: Effort, row: Row) -> None:
    ways: dict[str, Way] = {}
    estimate = 0.0
    for name, make in case.ways.items():
        try:
            way = make()
            estimate += measure.warm_up(way, case.inputs[0], device)
            ways[name] = way
        except Exception as error:
            # A peer may fail in any way that it likes; the reason is shown, and the rest goes on.
            _leave_out(name, error, row)
        if name not in ways:
            _free(device)  # only here, as an exception keeps the tensors of its frames alive
    if not ways:
        return
    times = measure.take_turns(ways, case.inputs, device, effort, estimate)
    for name, way in ways.items():
        found = row["ways"][name] = times[name]._asdict()
        found["peak_bytes"] = measure.peak_bytes(way, case.inputs[0], device)
        if way.per_second is not None:
            amount, unit = way.per_second
            found["rate"] = 1e3 * amount / times[name].median_ms
            found["unit"] = f"{unit}/s"


def _measure_error(case: Case, row: Row) -> None:
    row["max_error"] = None
    if case.error is None or OURS not in row["ways"]:
        return
    try:
        row["max_error"] = case.error()
    except Exception as error:
        _leave_out("error", error, row)


def _add_ratios(row: Row) -> None:
    medians = {name: found["median_ms"] for name, found in row["ways"].items()}
    ours = medians.pop(OURS, None)
    matmul = medians.pop(MATMUL, None)
    row["ours_over_floor"] = ours / row["floor_ms"] if ours else None
    row["ours_over_matmul"] = ours / matmul if ours and matmul else None
    row["peers_over_ours"] = {name: ms / ours for name, ms in medians.items()} if ours else {}


def _leave_out(what: str, error: Exception, row: Row) -> None:
    """Note why something is missing; what is not a peer must not fail for want of anything else
    than memory."""
    row["skipped"][what] = _reason(error)
    expected = isinstance(error, Skip | torch.OutOfMemoryError)
    row["failed"] |= what in ("inputs", OURS, "error") and not expected


def _reason(error: BaseException) -> str:
    if isinstance(error, Skip):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:200]


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
