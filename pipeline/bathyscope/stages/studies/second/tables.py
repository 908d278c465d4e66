"""Tables of the study of the second model: means by start and source, maps, and every pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bathyscope.config import Config
from bathyscope.pages.study_data import Table
from bathyscope.stages.studies.protocols import EQUAL_COUNT, PROTOCOLS, middle
from bathyscope.stages.studies.second.curves import LEVELS
from bathyscope.stages.studies.second.needed import map_tokens
from bathyscope.stages.studies.second.pairs import (
    ARCHITECTURES,
    COMPARISONS,
    LARGER,
    SEEDS,
    SMALLER,
    UNTRAINED,
    comparison_of,
)
from bathyscope.stages.studies.second.reach import of
from bathyscope.stages.studies.second.spreads import ratio_of, short, spread_of
from bathyscope.stages.studies.second.starts import MAPPED, STARTS
from bathyscope.stages.studies.second.told import SHARE
from bathyscope.stages.studies.verdicts import Row
from bathyscope.values import Json


def tables(config: Config, rows: Sequence[Row], records: Sequence[Row]) -> list[Table]:
    """Means by start and source, then each pair."""
    found: list[Table] = []
    for protocol, words in PROTOCOLS.items():
        lines = _means(config, of(records, protocol=protocol))
        found += [_tokens(lines, words), _fvus(lines, words)]
    return [*found, _maps(config, rows), _pairs(config, of(records, protocol=EQUAL_COUNT))]


_SHORT = {
    SEEDS: "another seed",
    SMALLER: "smaller",
    LARGER: "larger",
    ARCHITECTURES: "architecture",
    UNTRAINED: "untrained",
}
"""What the source is, in a narrow column."""
_LINE = (
    ("start", "start", "text"),
    ("source", "source", "text"),
    ("map_tokens", "rows of the map", "number"),
    ("pairs", "pairs", "number"),
)


def _tokens(lines: Sequence[Json], words: str) -> Table:
    columns = (
        *_LINE,
        ("early", "at 1/16", "interval"),
        ("saving", "at 1/2", "interval"),
        ("in_training", "at 1/2, map not counted", "interval"),
        ("never", "never", "number"),
        ("late", "at the end", "interval"),
        ("never_late", "never", "number"),
    )
    return Table(
        f"Times fewer tokens than from scratch at {words}, to the loss that scratch has after a "
        "share of its training: geometric means, intervals over targets",
        columns,
        lines,
    )


def _fvus(lines: Sequence[Json], words: str) -> Table:
    columns = (
        *_LINE,
        ("start_fvu", "before the first step", "number"),
        ("final_fvu", "at the end", "number"),
        ("final", "at the end, below scratch", "interval"),
    )
    return Table(f"Held-out FVU at {words}, intervals over targets", columns, lines)


def _means(config: Config, records: Sequence[Row]) -> list[Json]:
    """A line for each start, source and number of rows of a map."""
    found: list[Json] = []
    for start, told in STARTS.items():
        for kind in (None, *COMPARISONS):
            for n in [0, *map_tokens(config)]:
                some = of(records, start=start, comparison=kind, map_tokens=n)
                if some:
                    found.append(_mean_row(config, some, told, kind, n))
    return found


def _mean_row(config: Config, records: Sequence[Row], told: str, kind: str | None, n: int) -> Json:
    own = of(records, share=SHARE)
    final = spread_of(own, "ahead", config)
    return {
        "start": told,
        "source": "none" if kind is None else _SHORT[kind],
        "map_tokens": n,
        "pairs": len(own),
        "saving": _ends(ratio_of(own, config)),
        "in_training": _ends(ratio_of(own, config, "saving_in_training")),
        "early": _ends(ratio_of(of(records, share=LEVELS[0]), config)),
        "late": _ends(ratio_of(of(records, share=LEVELS[-1]), config)),
        "never": _never(own),
        "never_late": _never(of(records, share=LEVELS[-1])),
        "start_fvu": float(np.mean([r["start_fvu"] for r in own])),
        "final_fvu": spread_of(own, "final_fvu", config).value,
        "final": _ends(final),
    }


def _never(records: Sequence[Row]) -> int:
    return sum(r["censored"] == "never" for r in records)


def _maps(config: Config, rows: Sequence[Row]) -> Table:
    mapped = of(rows, start=MAPPED, protocol=EQUAL_COUNT)
    found: list[Json] = []
    for kind, words in COMPARISONS.items():
        own = [r for r in mapped if comparison_of(r) == kind]
        if own:
            line: Json = {"source": words, "pairs": len({(r["source"], r["target"]) for r in own})}
            for n in map_tokens(config):
                line[str(n)] = _ends(spread_of(of(own, map_tokens=n), "map_fvu", config))
            found.append(line)
    columns = [("source", "source", "text"), ("pairs", "pairs", "number")]
    columns += [(str(n), f"{n:,} rows", "interval") for n in map_tokens(config)]
    return Table("Held-out FVU of the linear map itself, by its rows", columns, found)


def _pairs(config: Config, records: Sequence[Row]) -> Table:
    n = middle(map_tokens(config))
    own = of(records, start=MAPPED, map_tokens=n, share=SHARE)
    found = [
        {
            **{name: r[name] for name in ("target", "source", "tokens", "scratch_tokens")},
            "comparison": COMPARISONS[r["comparison"]],
            "censored": {"never": "never", "start": "before the first step"}.get(r["censored"], ""),
            "ratio": 2 ** r["saving"],
            "start_fvu": r["start_fvu"],
            "final": r["ahead"],
        }
        for r in own
    ]
    columns = (
        ("target", "target", "text"),
        ("source", "source", "text"),
        ("comparison", "the source is", "text"),
        ("scratch_tokens", "rows from scratch", "number"),
        ("tokens", "rows of training, mapped", "number"),
        ("censored", "reached", "text"),
        ("ratio", "times fewer, map counted", "number"),
        ("start_fvu", "FVU before the first step", "number"),
        ("final", "FVU at the end, below scratch", "number"),
    )
    return Table(f"Each pair, map of {n:,} rows, at a share of {SHARE:g}", columns, found)


def _ends(found: tuple[float, float, float]) -> tuple[float | None, float | None, float | None]:
    value, low, high = (short(v) for v in found)
    return value, low, high
