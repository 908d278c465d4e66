"""Cells as lines of text with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(cells: Sequence[Sequence[str]]) -> str:
    """Rows of equal length, the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
