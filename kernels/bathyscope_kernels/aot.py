"""Compiles every GPU kernel for sm_90 without a GPU and looks at the machine code.

Flow: `python -m bathyscope_kernels.aot [--quick]` imports all modules of `bathyscope_kernels.gpu`,
compiles each kernel they registered in each of its configurations, and reads registers, stack and
instructions with the cuobjdump that comes with Triton. A kernel fails that does not compile, that
uses more stack (spilled registers) than its budget, or that lacks the matrix instructions it
declares. Prints a table and last one JSON object; the exit code is 1 if anything failed.
`--quick` takes the first configuration of each kernel.
"""

import argparse
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bathyscope_kernels import gpu
from bathyscope_kernels.gpu.runtime import HAS_TRITON, INTERPRET, KERNELS, Configuration, triton

_ARCHITECTURE = 90
_MATRIX_INSTRUCTION = re.compile(r"\b[A-Z]+MMA\b")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s", re.MULTILINE)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")


@dataclass(frozen=True)
class Report:
    """What one kernel in one configuration compiled to."""

    kernel: str
    configuration: str
    registers: int
    stack_bytes: int
    sass_lines: int
    matrix_instructions: int
    problem: str
    """Empty if there is none."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check and return the exit code: 0, 1 for failures, 2 if it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m bathyscope_kernels.aot", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one configuration of each kernel")
    quick = parser.parse_args(arguments).quick
    refusal = _refusal()
    if refusal:
        sys.stderr.write(refusal + "\n")
        return 2
    started = time.monotonic()
    _import_kernels()
    reports = []
    _write_row("kernel", "configuration", "registers", "stack", "SASS", "MMA", "")
    for name, (kernel, configurations) in KERNELS.items():
        for configuration in configurations[: 1 if quick else None]:
            report = check(name, kernel, configuration)
            _write_row(
                report.kernel, report.configuration, report.registers, report.stack_bytes,
                report.sass_lines, report.matrix_instructions, report.problem or "ok",
            )  # fmt: skip
            reports.append(report)
    failed = [asdict(report) for report in reports if report.problem]
    summary = {
        "kernels": len({report.kernel for report in reports}),
        "compiled": len(reports),
        "failed": failed,
        "architecture": f"sm_{_ARCHITECTURE}",
        "seconds": round(time.monotonic() - started, 1),
    }
    sys.stdout.write(json.dumps(summary) + "\n")
    return 1 if failed else 0


def check(name: str, kernel: Any, configuration: Configuration) -> Report:
    """Compile one kernel and compare the machine code with what its configuration declares."""
    label = _label(configuration)
    try:
        registers, stack, sass = _disassemble(_compile(kernel, configuration))
    except Exception as error:  # the compiler raises many kinds, and the others are to go on
        return Report(name, label, 0, 0, 0, 0, f"{type(error).__name__}: {error}"[:500])
    found = len(_MATRIX_INSTRUCTION.findall(sass))
    problems = []
    if stack > configuration.spill_bytes:
        problems.append(f"stack of {stack} bytes, budget {configuration.spill_bytes}")
    if configuration.expected_mma and found == 0:
        problems.append("no matrix instruction")
    lines = len(_INSTRUCTION.findall(sass))
    return Report(name, label, registers, stack, lines, found, "; ".join(problems))


def _refusal() -> str:
    if not HAS_TRITON:
        return "triton is not installed, so there is nothing to compile; pip install 'triton>=3.6'"
    if INTERPRET:
        return (
            "TRITON_INTERPRET is set, so kernels are Python functions that cannot be compiled; "
            "run again without it: env -u TRITON_INTERPRET python -m bathyscope_kernels.aot"
        )
    return ""


def _import_kernels() -> None:
    for module in pkgutil.iter_modules(gpu.__path__):
        importlib.import_module(f"{gpu.__name__}.{module.name}")


def _compile(kernel: Any, configuration: Configuration) -> bytes:
    """Return the machine code of a kernel, as an ELF file."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    wanted = set(kernel.arg_names)
    given = set(configuration.signature) | set(configuration.constexprs)
    if given != wanted:
        raise ValueError(
            f"the configuration differs from the arguments in {sorted(given ^ wanted)}; give each "
            "argument a type or, as a constexpr, a value"
        )
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        kind, _, multiple = configuration.signature.get(name, "constexpr").partition(":")
        signature[name] = kind
        if multiple:
            attributes[(place,)] = [["tt.divisibility", int(multiple)]]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs=dict(configuration.constexprs),
        attrs=attributes,
    )
    options = {"num_warps": configuration.num_warps, "num_stages": configuration.num_stages}
    target = GPUTarget("cuda", _ARCHITECTURE, 32)
    return triton.compile(source, target=target, options=options).asm["cubin"]


def _disassemble(cubin: bytes) -> tuple[int, int, str]:
    """Return registers per thread, bytes of stack per thread, and the instructions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _USAGE.search(_cuobjdump("--dump-resource-usage", path))
        sass = _cuobjdump("--dump-sass", path)
    if usage is None:
        raise RuntimeError("cuobjdump printed no resource usage, wanted a line with REG and STACK")
    return int(usage[1]), int(usage[2]), sass


def _cuobjdump(option: str, path: Path) -> str:
    tool = triton.knobs.nvidia.cuobjdump.path
    done = subprocess.run([tool, option, str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{tool} {option} failed: {done.stderr.strip()}")
    return done.stdout


def _label(configuration: Configuration) -> str:
    values = [
        f"{name}={int(value) if isinstance(value, bool) else value}"
        for name, value in configuration.constexprs.items()
    ]
    kinds = sorted({kind.partition(":")[0] for kind in configuration.signature.values()} & _FLOATS)
    return " ".join(
        [*values, *kinds, f"warps={configuration.num_warps}", f"stages={configuration.num_stages}"]
    )


_FLOATS = {"*fp32", "*bf16", "*fp16"}


def _write_row(*cells: object) -> None:
    kernel, configuration, *numbers, problem = (str(cell) for cell in cells)
    shown = "".join(number.rjust(10) for number in numbers)
    sys.stdout.write(f"{kernel:<16}{configuration:<110}{shown}  {problem}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
