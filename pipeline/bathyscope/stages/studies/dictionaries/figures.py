"""Plots and tables of the study of dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bathyscope.pages.series import Series
from bathyscope.pages.study_data import Plot, Table
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.protocols import EQUAL_COUNT, EQUAL_RATIO, PROTOCOLS
from bathyscope.stages.studies.verdicts import Of, Row, by_architecture, judged, means, size_series

PARAMETERS = "parameters, embeddings included"


def plots(members: Sequence[Member], rows: Sequence[Row]) -> list[Plot]:
    """FVU and ΔCE against size in both protocols, FVU against width and compute, latents."""
    found = []
    for protocol, words in PROTOCOLS.items():
        found.append(_against_size(members, rows, protocol, "fvu", f"FVU at {words}", "FVU"))
        found.append(
            _against_size(members, rows, protocol, "delta_ce", f"ΔCE at {words}", "nats per token")
        )
    found.append(_earlier(members, rows))
    found += [_against_width(members, rows), _latents(members, rows)]
    return found


def tables(members: Sequence[Member], rows: Sequence[Row]) -> list[Table]:
    """A row per model: the middle dictionary of equal ratios, in every unit."""
    found = []
    for member in members:
        own = [r for r in rows if r["member"] == member.name and _dictionary(EQUAL_RATIO)(r)]
        middle = sorted({(r["num_latents"], r["k"]) for r in own})
        if not middle:
            continue
        chosen = middle[len(middle) // 2]
        mine = [r for r in own if (r["num_latents"], r["k"]) == chosen]
        first = mine[0]
        found.append(
            {
                "member": member.name,
                "f": chosen[0],
                "k": chosen[1],
                "fvu": _mean(mine, "fvu"),
                "clean": first["clean_ce"],
                "ce": (first["delta_ce"], first["delta_ce_low"], first["delta_ce_high"]),
                "bits": _mean(mine, "delta_bits_per_byte"),
                "earlier": _mean(mine, "earlier_share"),
                "alive": _share(mine, "alive", chosen[0]),
                "unique": _share(mine, "unique", chosen[0]),
                "stable": _share(mine, "stable", chosen[0]),
            }
        )
    columns = (
        ("member", "model", "text"),
        ("f", "F", "number"),
        ("k", "k", "number"),
        ("fvu", "FVU", "number"),
        ("clean", "clean loss, nats", "number"),
        ("ce", "ΔCE, nats", "interval"),
        ("bits", "ΔCE, bits per byte", "number"),
        ("earlier", "share of the training that has this loss", "percent"),
        ("alive", "alive", "percent"),
        ("unique", "unique", "percent"),
        ("stable", "stable", "percent"),
    )
    title = (
        "One dictionary of each model: the middle one of equal F / d and L0 / d; mean of its "
        "seeds, ΔCE with its interval of the first"
    )
    return [Table(title, columns, found)]


def _against_size(
    members: Sequence[Member], rows: Sequence[Row], protocol: str, key: str, title: str, label: str
) -> Plot:
    trained = judged(members)
    series = size_series(means(trained, rows, key, _dictionary(protocol)))
    if key == "fvu":
        # A model without training has no loss to lose.
        untrained = means([m for m in members if not m.trained], rows, key, _dictionary(protocol))
        series += size_series(_one_line(untrained), "without training", colour=2)
    ks = {r["k"] for r in rows if protocol in r["protocols"]}
    for number, (kind, words) in enumerate(
        (("random", "random"), ("pca", "PCA"), ("neurons", "neurons"))
    ):
        values = means(trained, rows, key, _control(kind, ks, protocol))
        if key == "fvu" or kind != "random":
            series += size_series(_one_line(values), words, colour=3 + number)
    note = "Mean over the dictionaries of a model; controls of one architecture and seed."
    return Plot(title, PARAMETERS, label, series, log_y=key == "delta_ce", note=note)


def _one_line(values: Sequence[Of]) -> list[Of]:
    """Those of the architecture with the most sizes, of its first seed."""
    groups = by_architecture(values)
    found = next(iter(groups.values()), [])
    return [v for v in found if v.member.seed == found[0].member.seed]


def _earlier(members: Sequence[Member], rows: Sequence[Row]) -> Plot:
    values = means(judged(members), rows, "earlier_share", _dictionary(EQUAL_RATIO))
    return Plot(
        "The spliced model as an earlier checkpoint, at equal F / d and L0 / d",
        PARAMETERS,
        "share of the training with that loss",
        size_series(values),
        note="Mean over the dictionaries that keep the loss within the measured checkpoints.",
    )


def _against_width(members: Sequence[Member], rows: Sequence[Row]) -> Plot:
    series = []
    trained = judged(members)
    architectures = list(dict.fromkeys(m.architecture for m in trained))
    seed = trained[0].seed if trained else None
    sizes = sorted({m.parameters for m in trained})
    for member in (m for m in trained if m.seed == seed):
        own = [r for r in rows if r["member"] == member.name and _dictionary(EQUAL_COUNT)(r)]
        ks = sorted({r["k"] for r in own})
        if not ks:
            continue
        mine = [r for r in own if r["k"] == ks[len(ks) // 2]]
        widths = sorted({r["num_latents"] for r in mine})
        points = [(f, _mean([r for r in mine if r["num_latents"] == f], "fvu")) for f in widths]
        series.append(
            Series(
                member.name,
                points,
                colour=sizes.index(member.parameters),
                marker=sizes.index(member.parameters),
                dashed=architectures.index(member.architecture),
                markers=True,
            )
        )
    return Plot("FVU against latents at the middle L0", "latents F", "FVU", series, log_y=True)


def _latents(members: Sequence[Member], rows: Sequence[Row]) -> Plot:
    trained = judged(members)
    series = []
    for number, key in enumerate(("alive", "unique", "stable")):
        shared = [{**r, "share": r[key] / r["num_latents"]} for r in rows if r.get(key) is not None]
        values = means(trained, shared, "share", _dictionary(EQUAL_RATIO))
        first = [v for v in values if v.member.seed == values[0].member.seed]
        series += size_series(first, key, colour=2 * number)
    return Plot(
        "Latents at equal F / d and L0 / d: alive, unique, found again by another seed",
        PARAMETERS,
        "share of the latents",
        series,
    )


def _dictionary(protocol: str) -> Callable[[Row], bool]:
    return lambda row: row["kind"] == "dictionary" and protocol in row["protocols"]


def _control(kind: str, ks: set[int], protocol: str) -> Callable[[Row], bool]:
    def passes(row: Row) -> bool:
        if row["kind"] != kind:
            return False
        return protocol in row["protocols"] if kind == "random" else row["k"] in ks

    return passes


def _mean(rows: Sequence[Row], key: str) -> float | None:
    values = [r[key] for r in rows if r.get(key) is not None]
    return float(np.mean(values)) if values else None


def _share(rows: Sequence[Row], key: str, count: int) -> float | None:
    value = _mean(rows, key)
    return None if value is None else value / count
