"""Plots of the study of the second model: curves, and how many times fewer tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bathyscope.config import Config
from bathyscope.pages.lines import Reference
from bathyscope.pages.series import Series
from bathyscope.pages.study_data import Plot
from bathyscope.stages.studies.protocols import EQUAL_COUNT, middle
from bathyscope.stages.studies.second.curves import LEVELS
from bathyscope.stages.studies.second.needed import map_tokens
from bathyscope.stages.studies.second.pairs import COMPARISONS, TRAINED, UNTRAINED, comparison_of
from bathyscope.stages.studies.second.reach import mean_curve, of
from bathyscope.stages.studies.second.spreads import ratio_of, short
from bathyscope.stages.studies.second.starts import (
    ITSELF,
    MAPPED,
    PCA,
    ROTATED_COVARIANCE,
    SCRATCH,
    SHUFFLED,
)
from bathyscope.stages.studies.second.told import SHARE
from bathyscope.stages.studies.verdicts import Row

_TOKENS = "rows of the target, those of the map counted"
_RATIO = "times fewer tokens than from scratch"
_SAME = (Reference("as many as from scratch", 1.0),)
_APART = 1.03
_BARS = "Geometric means over pairs; bars are 95 % intervals over targets."
Lines = Sequence[tuple[str, list[Row]]]


def plots(config: Config, rows: Sequence[Row], records: Sequence[Row]) -> list[Plot]:
    """Curves of the smallest and largest targets, then ratios by loss, by map and by size.

    `rows` are measured, `records` what follows from them; both of models that carry verdicts.
    """
    equal = of(rows, protocol=EQUAL_COUNT)
    own = of(records, protocol=EQUAL_COUNT)
    found = [_curves(config, some, title) for title, some in _targets(equal)]
    return [
        *found,
        _by_loss(config, own),
        _by_map(config, own),
        *_by_size(config, own),
        _at_the_end(config, own),
    ]


def _targets(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows of the smallest and the largest targets of the architecture with the most rows."""
    if not rows:
        return []
    names = [row["architecture"] for row in rows]
    name = max(dict.fromkeys(names), key=names.count)
    some = of(rows, architecture=name)
    sizes = sorted({row["parameters"] for row in some})
    return [
        (f"{name}, {size:,} parameters", of(some, parameters=size))
        for size in dict.fromkeys((sizes[0], sizes[-1]))
    ]


def _curves(config: Config, rows: Sequence[Row], title: str) -> Plot:
    lines: list[tuple[str, list[Row]]] = [("from scratch", of(rows, start=SCRATCH))]
    some = of(rows, map_tokens=middle(map_tokens(config)))
    mapped = of(some, start=MAPPED)
    for kind in (*TRAINED, UNTRAINED):
        lines.append((f"from {COMPARISONS[kind]}", [r for r in mapped if comparison_of(r) == kind]))
    trained = [r for r in some if r["source"] is not None and comparison_of(r) in TRAINED]
    lines.append(("principal directions", of(some, start=PCA)))
    lines.append(("turned, covariance kept", of(trained, start=ROTATED_COVARIANCE)))
    lines.append(("its own, another seed", of(rows, start=ITSELF)))
    series = []
    for number, (label, own) in enumerate(lines):
        curve = mean_curve(own)
        if curve is None:
            continue
        before = own[0]["map_tokens"]
        points = [(t + before, v) for t, v in zip(*curve, strict=True) if t + before > 0]
        series.append(_series(label, points, number, line=True))
    return Plot(
        f"Held-out FVU on the way: {title}",
        _TOKENS,
        "FVU",
        series,
        log_y=True,
        note=f"Means over pairs and seeds. A curve with a map begins at the rows that it was "
        f"fitted on, {middle(map_tokens(config)):,}, before its first step.",
    )


def _by_loss(config: Config, records: Sequence[Row]) -> Plot:
    n = middle(map_tokens(config))
    mapped = of(records, start=MAPPED, map_tokens=n)
    lines: list[tuple[str, list[Row]]] = [
        (f"from {COMPARISONS[kind]}", of(mapped, comparison=kind)) for kind in (*TRAINED, UNTRAINED)
    ]
    some = of(records, map_tokens=n)
    lines.append(("principal directions", of(some, start=PCA)))
    turned = of(some, start=ROTATED_COVARIANCE, comparison=TRAINED)
    lines.append(("turned, covariance kept", turned))
    lines.append(("map of shuffled rows", of(some, start=SHUFFLED, comparison=TRAINED)))
    series = [
        # Side by side, so that bars do not hide each other.
        _with_bars(config, label, [(s * _APART**number, of(own, share=s)) for s in LEVELS], number)
        for number, (label, own) in enumerate(lines)
    ]
    return Plot(
        "Times fewer tokens, by the loss to reach",
        "loss to reach: that of scratch after this share of its training",
        _RATIO,
        [each for each in series if each.points],
        log_y=True,
        note=f"{_BARS} Where all have the loss before their first step, the ratio is that of "
        "rows to the rows of the map.",
        references=_SAME,
    )


def _by_map(config: Config, records: Sequence[Row]) -> Plot:
    own = of(records, start=MAPPED, share=SHARE, comparison=TRAINED)
    by_n = [(n, of(own, map_tokens=n)) for n in map_tokens(config)]
    principal = of(records, start=PCA, share=SHARE)
    lines = [
        ("mapped, rows of the map counted", by_n, "saving"),
        ("mapped, rows of the map not counted", by_n, "saving_in_training"),
        (
            "principal directions, their rows counted",
            [(n, of(principal, map_tokens=n)) for n in map_tokens(config)],
            "saving",
        ),
    ]
    series = [
        _with_bars(config, words, points, number, key)
        for number, (words, points, key) in enumerate(lines)
    ]
    return Plot(
        f"Times fewer tokens, by the rows of the map, at a share of {SHARE:g}",
        "rows that the map, or the directions, were fitted on",
        _RATIO,
        series,
        log_y=True,
        note=f"All trained sources. {_BARS}",
        references=_SAME,
    )


def _by_size(config: Config, records: Sequence[Row]) -> list[Plot]:
    """A plot for each architecture: two seeds of a size are too few for an interval."""
    own = of(records, share=SHARE, map_tokens=middle(map_tokens(config)), start=MAPPED)
    found = []
    for name in dict.fromkeys(r["architecture"] for r in own):
        series = []
        for number, kind in enumerate((*TRAINED, UNTRAINED)):
            some = of(own, architecture=name, comparison=kind)
            points = sorted((float(r["parameters"]), 2 ** r["saving"]) for r in some)
            if points:
                series.append(_series(f"from {COMPARISONS[kind]}", points, number, line=False))
        found.append(
            Plot(
                f"{name}: times fewer tokens, by the size of the target",
                "parameters of the target, embeddings included",
                _RATIO,
                series,
                log_y=True,
                note=f"A point is a pair, at a share of {SHARE:g}.",
                references=_SAME,
            )
        )
    return found


def _at_the_end(config: Config, records: Sequence[Row]) -> Plot:
    n = middle(map_tokens(config))
    own = of(records, share=SHARE)
    lines: list[tuple[str, list[Row]]] = [
        (f"from {COMPARISONS[kind]}", of(own, start=MAPPED, map_tokens=n, comparison=kind))
        for kind in (*TRAINED, UNTRAINED)
    ]
    lines.append(("principal directions", of(own, start=PCA, map_tokens=n)))
    lines.append(("its own, another seed", of(own, start=ITSELF)))
    series = []
    for number, (label, some) in enumerate(lines):
        known = [r for r in some if r["ahead"] is not None]
        sizes = sorted({r["parameters"] for r in known})
        means = [float(np.mean([r["ahead"] for r in of(known, parameters=s)])) for s in sizes]
        points = list(zip(sizes, means, strict=True))
        series.append(_series(label, points, number, line=False))
    return Plot(
        "How far ahead at the end of the training",
        "parameters of the target, embeddings included",
        "held-out FVU from scratch, less this",
        series,
        note="Above 0 the start is still ahead. Means over pairs, seeds and architectures.",
        references=(Reference("as from scratch", 0.0),),
    )


def _with_bars(
    config: Config,
    label: str,
    points: Sequence[tuple[float, list[Row]]],
    number: int,
    key: str = "saving",
) -> Series:
    known = [(x, ratio_of(records, config, key)) for x, records in points if records]
    return _series(
        label,
        [(x, found.value) for x, found in known],
        number,
        line=len(known) > 1,
        lows=[short(found.low) for _, found in known],
        highs=[short(found.high) for _, found in known],
    )


_COLOURS = 6


def _series(
    label: str,
    points: Sequence[tuple[float, float]],
    number: int,
    *,
    line: bool,
    lows: Sequence[float | None] = (),
    highs: Sequence[float | None] = (),
) -> Series:
    """Colours come again after six: then dashed, with another shape."""
    return Series(
        label,
        list(points),
        colour=number,
        marker=number,
        dashed=number // _COLOURS,
        markers=True,
        line=line,
        lows=lows,
        highs=highs,
    )
