"""python -m bathyscope_kernels.bench: measure, print each row, write JSON and Markdown.

Rows that the folder has from the same machine, versions and source are not measured again, so an
interrupted run goes on where it was. The last line printed is one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bathyscope_kernels.bench import cases, machine, shapes, tables
from bathyscope_kernels.bench.measure import FULL, QUICK
from bathyscope_kernels.bench.records import Records, headline
from bathyscope_kernels.bench.rows import measure_row
from bathyscope_kernels.bench.shapes import Shape


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 if one of ours failed, 2 for arguments that make no sense."""
    parser = _parser()
    given = parser.parse_args(argv)
    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        wanted = _shapes(given, device)
        plan = cases.plan(wanted, device, given.only)
    except ValueError as error:
        parser.error(str(error))
    seconds = given.seconds
    if seconds is None:
        seconds = 480.0 if device.type == "cuda" else float("inf")
    folder = given.out or Path(f"bench-kernels-{device.type}")
    return _run(plan, device, folder, seconds=seconds, quick=given.quick, again=given.again)


def _run(
    plan: list[tuple[str, Shape]],
    device: torch.device,
    folder: Path,
    *,
    seconds: float,
    quick: bool,
    again: bool,
) -> int:
    started = time.monotonic()
    identity = machine.identity(device)
    records = Records(folder, identity)
    rates = machine.rates(device, quick=quick)
    header = machine.header(device, identity, rates)
    width = max(len(shape.title) for _, shape in plan)
    _say(tables.about(header) + "\n\n" + tables.heading(width))
    left_out, failed, measured = [], [], 0
    try:
        for operation, shape in plan:
            name = f"{operation} at {shape.label}"
            if not again and records.has(operation, shape.label, quick):
                continue
            if time.monotonic() - started > seconds:
                left_out.append(name)
                continue
            row = measure_row(operation, shape, device, rates, QUICK if quick else FULL)
            row["quick"] = quick
            _say(tables.line(row, width))
            records.add(row)
            measured += 1
            if row["failed"]:
                failed.append(name)
                _check_device(device)
    except KeyboardInterrupt:
        _say("interrupted: the same command goes on from here")
    finally:
        path = records.write(header, left_out, quick=quick)
    for name in left_out:
        _say(f"left out, {seconds:.0f} s are over: {name}")
    rows = [row for row in records.rows if row["quick"] == quick]
    result = {
        "path": str(path),
        "rows": len(rows),
        "measured": measured,
        "left_out": len(left_out),
        "failed": failed,
        **headline(rows),
    }
    _say(json.dumps(result))
    return 1 if failed else 0


def _check_device(device: torch.device) -> None:
    """Raise if an error has left the device unusable, as a bad memory access does."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _shapes(given: argparse.Namespace, device: torch.device) -> list[Shape]:
    if given.shape:
        return [shapes.parse(text, device) for text in given.shape]
    found = shapes.for_device(device)
    return found[:1] if given.quick else found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bathyscope_kernels.bench", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    parser.add_argument(
        "--only", metavar="NAME", help="this operation, or all whose name contains NAME"
    )
    parser.add_argument("--quick", action="store_true", help="one small shape, a few rounds")
    parser.add_argument(
        "--shape",
        action="append",
        metavar="T,d,F,k",
        help="tokens, d, latents and k instead of the built-in shapes; may come more than once",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="N", help="start no row after N; default 480 on cuda"
    )
    parser.add_argument("--out", type=Path, help="default: ./bench-kernels-DEVICE")
    parser.add_argument("--again", action="store_true", help="measure rows that are there as well")
    return parser


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
