"""How rows are shown: one line in a terminal as each is measured, one table in Markdown."""

from collections.abc import Sequence
from typing import Any

from bathyscope_kernels.bench.case import MATMUL, OURS
from bathyscope_kernels.bench.rows import Row

_COLUMNS = (  # with the width in a terminal
    ("operation", 19),
    ("tokens x d x latents, k", 0),
    ("dtype", 8),
    ("floor ms", 8),
    ("matmul ms", 9),
    ("ours ms", 8),
    ("min to max", 15),
    ("/matmul", 7),
    ("/floor", 6),
    ("memory", 7),
    ("error", 7),
)
_LEFT = 3  # columns of text; the others are numbers and stand to the right
_PEERS = "others: ms (times ours, memory)"


def heading(label_width: int = 0) -> str:
    """The line over the rows; `label_width` is the length of the longest label of a shape."""
    return _line([name for name, _ in _COLUMNS], _PEERS, label_width)


def line(row: Row, label_width: int = 0) -> str:
    """One row, and a line under it for each way that was left out."""
    skipped = [f"    left out, {name}: {why}" for name, why in row["skipped"].items()]
    return "\n".join([_line(_cells(row), "; ".join(_peers(row)), label_width).rstrip(), *skipped])


def about(header: dict[str, Any]) -> str:
    """The header in words."""
    versions = ", ".join(f"{name} {v or 'missing'}" for name, v in header["versions"].items())
    cuda = ""
    if header["cuda"]:
        cuda = f", CUDA {header['cuda']}, float32 matmul precision {header['float32_matmul']!r}"
    return (
        f"{header['device']}, {header['memory_bytes'] / 2**30:.0f} GiB, {header['cores']} cores, "
        f"{header['threads']} threads\n"
        f"{versions}{cuda}, Python {header['python']}\n"
        f"commit {header['commit']}, source {header['source']}, {header['date']}\n"
        f"matmul {number(header['matmul_tflops'])} TFLOP/s, "
        f"copy {number(header['copy_gb_per_s'])} GB/s read and written"
    )


def markdown(header: dict[str, Any], rows: Sequence[Row], left_out: Sequence[str]) -> str:
    """The whole result as a page."""
    cells = [[name for name, _ in _COLUMNS] + [_PEERS]]
    cells += [[*_cells(row), "; ".join(_peers(row))] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    aligns = [i >= _LEFT and i < len(_COLUMNS) for i in range(len(widths))]
    rule = [
        "-" * (w - 1) + ":" if right else "-" * w for w, right in zip(widths, aligns, strict=True)
    ]
    padded = [
        [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(r, widths, aligns, strict=True)]
        for r in cells
    ]
    padded.insert(1, rule)
    table = "\n".join(f"| {' | '.join(row)} |" for row in padded)
    parts = [
        "# Kernels, measured",
        "  \n".join(about(header).splitlines()),
        _legend(header),
        table,
    ]
    skipped = [
        f"- {row['operation']} at {row['shape']}, {name}: {why}"
        for row in rows
        for name, why in row["skipped"].items()
    ]
    if skipped:
        parts.append("## Left out\n\n" + "\n".join(skipped))
    if left_out:
        names = "\n".join(f"- {name}" for name in left_out)
        parts.append(f"## Not measured, the time was over\n\n{names}")
    return "\n\n".join(parts) + "\n"


def _legend(header: dict[str, Any]) -> str:
    text = (
        "Times are medians, all ways in turns on the same inputs. `floor` is what the rates above "
        "allow for the FLOPs and bytes that cannot be avoided, bytes as from main memory: what a "
        "cache keeps can be quicker. `matmul` is the one that the operation contains, alone. "
        "`memory` is the peak beside the inputs, the result included. `error` is the largest "
        "difference from float64 on a sample, relative to the largest exact number. Behind each "
        "other way: its time over ours, its memory."
    )
    if not header["cuda"]:
        text += (
            " The floor on a CPU is that of float32; where the processor multiplies bfloat16, an "
            "encode that finds candidates in it can be below."
        )
    return text


def number(value: float) -> str:
    """Three digits, without an exponent for what a table holds."""
    if value >= 100 or value == 0:
        return f"{value:.0f}"
    if value < 0.001:
        return f"{value:.0e}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def size(num_bytes: int | None) -> str:
    """Bytes in MB or GB, "-" if unknown."""
    if num_bytes is None:
        return "-"
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.0f} MB"


def _line(cells: Sequence[str], peers: str, label_width: int) -> str:
    widths = [width for _, width in _COLUMNS]
    widths[1] = max(len(_COLUMNS[1][0]), label_width)
    padded = [
        cell.ljust(width) if i < _LEFT else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join([*padded, peers])


def _cells(row: Row) -> list[str]:
    ours, matmul = row["ways"].get(OURS), row["ways"].get(MATMUL)
    over_matmul, over_floor = row.get("ours_over_matmul"), row.get("ours_over_floor")
    error = row.get("max_error")
    return [
        row["operation"],
        row["title"],
        row["dtype"],
        number(row["floor_ms"]) if "floor_ms" in row else "-",
        number(matmul["median_ms"]) if matmul else "-",
        number(ours["median_ms"]) if ours else "-",
        f"{number(ours['min_ms'])} to {number(ours['max_ms'])}" if ours else "-",
        f"{number(over_matmul)}x" if over_matmul else "-",
        f"{number(over_floor)}x" if over_floor else "-",
        size(ours["peak_bytes"]) if ours else "-",
        f"{error:.0e}" if error is not None else "-",
    ]


def _peers(row: Row) -> list[str]:
    found = []
    for name, way in row["ways"].items():
        if name in (OURS, MATMUL):
            continue
        notes = [size(way["peak_bytes"])] if "rate" not in way else []
        if name in row.get("peers_over_ours", {}):
            notes.insert(0, f"{number(row['peers_over_ours'][name])}x")
        if "rate" in way:
            notes.append(f"{number(way['rate'])} {way['unit']}")
        found.append(f"{name} {number(way['median_ms'])} ({', '.join(notes)})")
    return found
