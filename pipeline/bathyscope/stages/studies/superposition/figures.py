"""Plots and tables of the study of superposition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bathyscope.pages.series import Reference, Series
from bathyscope.pages.study_data import Plot
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.superposition.measures import FINAL
from bathyscope.stages.studies.superposition.quantities import Quantity, curve_of
from bathyscope.stages.studies.verdicts import (
    Of,
    Row,
    first_seed,
    judged,
    means,
    size_series,
)

PARAMETERS = "parameters, embeddings included"
OVERLAP = "mean squared overlap × width"
ONE = Reference("random directions", 1.0)
Z = 1.96
"""Of a 95 % interval of a figure whose standard error is known."""


def of(kind: str) -> Callable[[Row], bool]:
    """Whether a row is of the final weights and of this kind."""
    return lambda row: row["kind"] == kind and row["state"] == FINAL


def plots(
    members: Sequence[Member], rows: Sequence[Row], quantities: Sequence[Quantity]
) -> list[Plot]:
    """Against size, each with its controls; against the loss along training; by depth."""
    found = [
        _unembedding(members, rows),
        _weights(members, rows),
        _against_size(
            members, rows, "dictionary", "dimensionality_mean",
            "Feature dimensionality of decoder rows, at equal F / d and L0 / d", "mean D",
        ),
        _spectrum(members, rows),
        _intrinsic(members, rows),
    ]  # fmt: skip
    found += [_along_training(members, rows, quantity) for quantity in quantities]
    return [plot for plot in [*found, _by_depth(members, rows)] if plot.series]


def _unembedding(members: Sequence[Member], rows: Sequence[Row]) -> Plot:
    trained, untrained = judged(members), [m for m in members if not m.trained]
    kind, key = of("unembedding_centred"), "overlap_times_width"
    series = size_series(means(trained, rows, key, kind))
    series += size_series(means(untrained, rows, key, kind), "without training", colour=2)
    first = first_seed(trained)
    weighted = means(first, rows, key, of("unembedding_frequency"))
    series += size_series(weighted, "weighted by token frequency", colour=4)
    alike = _first(members)
    shuffled = means(alike, rows, key, of("unembedding_shuffled"))
    series += _control(shuffled, "columns shuffled", 2)
    series += _control(means(alike, rows, "welch_times_width", kind), "least possible", 4)
    note = "Their mean is taken away. Weighted ones are of the first seed, the last two lines also "
    note += "of the architecture of the most sizes."
    title = "Overlap of unembedding rows"
    return Plot(title, PARAMETERS, OVERLAP, series, log_y=True, note=note, references=[ONE])


def _weights(members: Sequence[Member], rows: Sequence[Row]) -> Plot:
    series: list[Series] = []
    first = _first(members)
    initial = [
        m for m in members if not m.trained and first and m.architecture == first[0].architecture
    ]
    for number, (kind, words) in enumerate(
        (("mlp_out", "MLP out"), ("mlp_in", "MLP in"), ("layer_out", "layer out"))
    ):
        values = means(first, rows, "overlap_times_width", of(kind))
        series += size_series(values, words, colour=2 * number)
        values = means(initial, rows, "overlap_times_width", of(kind))
        series += size_series(values, f"{words}, without training", colour=2 * number + 1)
    note = "At the layer of the hook point; first seed of the architecture of the most sizes."
    title = "Overlap of the directions by which MLPs read and write"
    return Plot(title, PARAMETERS, OVERLAP, series, note=note, references=[ONE])


def _against_size(
    members: Sequence[Member], rows: Sequence[Row], kind: str, key: str, title: str, label: str
) -> Plot:
    series = size_series(means(judged(members), rows, key, of(kind)))
    untrained = means([m for m in members if not m.trained], rows, key, of(kind))
    series += size_series(untrained, "without training", colour=2)
    bound = means(_first(members), rows, "dimensionality_bound", of(kind))
    series += _control(bound, "most possible on average, d / F", 4)
    note = "Mean over the dictionaries of a model."
    return Plot(title, PARAMETERS, label, series, log_y=True, note=note)


def _spectrum(members: Sequence[Member], rows: Sequence[Row]) -> Plot:
    key, kind = "participation_ratio_share", of("activations")
    series = _with_errors(size_series(means(judged(members), rows, key, kind)), rows, key)
    untrained = [m for m in members if not m.trained]
    series += size_series(means(untrained, rows, key, kind), "without training", colour=2)
    values = means(_first(members), rows, f"shuffled_{key}", kind)
    series += _control(values, "columns shuffled", 4)
    note = "Bars: 95 % by the jackknife over documents."
    title = "Participation ratio of activations at the hook point"
    return Plot(title, PARAMETERS, "participation ratio / d", series, note=note)


def _intrinsic(members: Sequence[Member], rows: Sequence[Row]) -> Plot:
    kind, trained = of("activations"), judged(members)
    series = size_series(means(trained, rows, "two_nn", kind))
    untrained = [m for m in members if not m.trained]
    series += size_series(means(untrained, rows, "two_nn", kind), "without training", colour=2)
    values = means(_first(members), rows, "two_nn_gaussian", kind)
    series += _control(values, "Gaussian of the same covariance", 4)
    title = "Intrinsic dimension of activations at the hook point"
    note = "Above ten a lower bound."
    return Plot(title, PARAMETERS, "TwoNN dimension", series, log_y=True, note=note)


def _along_training(members: Sequence[Member], rows: Sequence[Row], quantity: Quantity) -> Plot:
    trained = judged(members)
    sizes = sorted({m.parameters for m in trained})
    kinds = list(dict.fromkeys(m.architecture for m in trained))
    series = []
    for member in first_seed(trained):
        curve = curve_of(member, rows, quantity)
        if curve:
            number = sizes.index(member.parameters)
            series.append(
                Series(
                    member.name,
                    [(point.loss, point.value) for point in curve],
                    colour=number,
                    marker=number,
                    dashed=kinds.index(member.architecture),
                    markers=True,
                )
            )
    title = f"Along training: {quantity.title}"
    note = "Training goes from right to left. Models are at matched capability on a vertical line."
    label = "held-out loss, nats per token"
    value = OVERLAP if quantity.key == "overlap_times_width" else quantity.title
    return Plot(title, label, value, series, log_x=False, note=note)


def _by_depth(members: Sequence[Member], rows: Sequence[Row]) -> Plot:
    trained = judged(members)
    sizes = sorted({m.parameters for m in trained})
    kinds = list(dict.fromkeys(m.architecture for m in trained))
    series = []
    for member in first_seed(trained):
        own = [r for r in rows if r["member"] == member.name and of("depth")(r)]
        own.sort(key=lambda r: r["layer"])
        if own:
            series.append(
                Series(
                    member.name,
                    [(r["depth"], r["participation_ratio_share"]) for r in own],
                    colour=sizes.index(member.parameters),
                    marker=sizes.index(member.parameters),
                    dashed=kinds.index(member.architecture),
                    markers=True,
                )
            )
    title = "Participation ratio of the residual stream by depth"
    return Plot(title, "share of the blocks", "participation ratio / d", series, log_x=False)


def _with_errors(series: Sequence[Series], rows: Sequence[Row], key: str) -> list[Series]:
    """The same with bars of the rows' standard errors; a point without one has none."""
    errors = {
        (row["parameters"], row[key]): row.get(f"{key}_error")
        for row in rows
        if of("activations")(row)
    }
    found = []
    for each in series:
        with_errors = [(y, errors.get((x, y))) for x, y in each.points]
        lows = [None if y is None or e is None else y - Z * e for y, e in with_errors]
        highs = [None if y is None or e is None else y + Z * e for y, e in with_errors]
        found.append(replace(each, lows=lows, highs=highs))
    return found


def _first(members: Sequence[Member]) -> list[Member]:
    """The first seed of the architecture of the most sizes, of which controls are drawn."""
    alike: dict[str, list[Member]] = {}
    for member in first_seed(judged(members)):
        alike.setdefault(member.architecture, []).append(member)
    return max(alike.values(), key=len, default=[])


def _control(values: Sequence[Of], words: str, colour: int) -> list[Series]:
    """A dotted line, so that it is no model's where colours come again."""
    return [replace(each, dashed=2) for each in size_series(values, words, colour=colour)]
