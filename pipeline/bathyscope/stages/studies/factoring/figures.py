"""Plots of the study of modules: Q and its null graphs, modules and their stability by size."""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.pages.series import Series
from bathyscope.pages.study_data import Plot
from bathyscope.stages.studies.factoring.attribution import LAYERS
from bathyscope.stages.studies.factoring.measures import BEYOND, RANDOM
from bathyscope.stages.studies.factoring.nulls import DEGREES, MARGINS, TOKENS
from bathyscope.stages.studies.factoring.rows import is_attribution, of
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.protocols import PROTOCOLS
from bathyscope.stages.studies.verdicts import Of, Row, by_architecture, judged, means, size_series

PARAMETERS = "parameters, embeddings included"
_NOTE = "Controls are of the first seed of the architecture of the most sizes."


def plots(members: Sequence[Member], rows: Sequence[Row]) -> list[Plot]:
    """For both protocols Q beside null graphs, the difference, and how many modules there are."""
    found = []
    for protocol, words in PROTOCOLS.items():
        found += [
            _modularity(members, rows, protocol, words),
            _beyond(members, rows, protocol, words),
            _modules(members, rows, protocol, words),
            _stability(members, rows, protocol, words),
        ]
    found += [_attribution(members, rows), _attribution_modules(members, rows)]
    return [plot for plot in found if plot.series]


def _modularity(members: Sequence[Member], rows: Sequence[Row], protocol: str, words: str) -> Plot:
    own, where = judged(members), of(protocol)
    series = size_series(means(own, rows, "q", where))
    for number, (key, label) in enumerate(
        (
            (f"{TOKENS}_q", "traded within a token"),
            (f"{DEGREES}_q", "rewired"),
            (f"{MARGINS}_q", "traded firings"),
        )
    ):
        series += _control(means(own, rows, key, where), label, 2 + number)
    title = f"Modularity of latents that fire together, at {words}"
    return Plot(title, PARAMETERS, "Q", series, note=_NOTE)


def _beyond(members: Sequence[Member], rows: Sequence[Row], protocol: str, words: str) -> Plot:
    own, where = judged(members), of(protocol)
    untrained = [m for m in members if not m.trained]
    key = f"{MARGINS}_less"
    series = size_series(means(own, rows, key, where))
    beyond = means(own, rows, f"{DEGREES}_less", of(protocol, graph=BEYOND))
    series += _control(means(own, rows, f"{TOKENS}_less", where), "less traded within a token", 2)
    series += _control(beyond, "edges beyond the token, less rewired", 5)
    random = means(own, rows, f"{DEGREES}_less", of(protocol, RANDOM))
    series += _control(random, "random dictionary, less rewired", 3)
    series += _control(means(untrained, rows, key, where), "without training", 4)
    title = f"Q less that of null graphs, at {words}"
    note = f"Less traded firings, where nothing else is said. {_NOTE}"
    return Plot(title, PARAMETERS, "Q less the null mean", series, note=note)


def _modules(members: Sequence[Member], rows: Sequence[Row], protocol: str, words: str) -> Plot:
    own, where = judged(members), of(protocol)
    untrained = [m for m in members if not m.trained]
    key = "effective_communities"
    series = size_series(means(own, rows, key, where))
    series += _control(means(own, rows, f"{DEGREES}_effective", where), "rewired", 2)
    series += _control(means(own, rows, f"{MARGINS}_effective", where), "traded firings", 3)
    series += _control(means(own, rows, key, of(protocol, RANDOM)), "random dictionary", 4)
    series += _control(means(untrained, rows, key, where), "without training", 5)
    title = f"Effective number of modules, at {words}"
    return Plot(title, PARAMETERS, "modules of equal size", series, note=_NOTE)


def _stability(members: Sequence[Member], rows: Sequence[Row], protocol: str, words: str) -> Plot:
    own, where = judged(members), of(protocol)
    series: list[Series] = []
    for number, (key, label) in enumerate(
        (
            ("leiden_ari", "seeds of Leiden"),
            ("halves_ari", "halves of the documents"),
            ("seeds_ari", "two dictionaries"),
        )
    ):
        series += _control(means(own, rows, key, where), label, number, dashed=number)
    title = f"How far two partitions into modules agree, at {words}"
    return Plot(title, PARAMETERS, "adjusted Rand index", series, note=_NOTE)


def _attribution(members: Sequence[Member], rows: Sequence[Row]) -> Plot:
    own, untrained = judged(members), [m for m in members if not m.trained]
    series = size_series(means(own, rows, "q", is_attribution))
    key = f"{LAYERS}_q"
    series += _control(means(own, rows, key, is_attribution), "sources traded", 2)
    series += _control(means(untrained, rows, "q", is_attribution), "without training", 3)
    null = means(untrained, rows, key, is_attribution)
    series += _control(null, "without training, sources traded", 4)
    series += _control(means(own, rows, "token_q", is_attribution), "the token alone", 5)
    return Plot("Modularity of attribution graphs", PARAMETERS, "Q", series, note=_NOTE)


def _attribution_modules(members: Sequence[Member], rows: Sequence[Row]) -> Plot:
    own, untrained = judged(members), [m for m in members if not m.trained]
    key = "effective_communities"
    series = size_series(means(own, rows, key, is_attribution))
    null = means(own, rows, f"{LAYERS}_effective", is_attribution)
    series += _control(null, "sources traded", 2)
    series += _control(means(untrained, rows, key, is_attribution), "without training", 3)
    title = "Effective number of modules of attribution graphs"
    return Plot(title, PARAMETERS, "modules of equal size", series, note=_NOTE)


def _control(values: Sequence[Of], label: str, colour: int, *, dashed: int = 2) -> list[Series]:
    """One line: the architecture of the most sizes, its first seed."""
    own = next(iter(by_architecture(values).values()), [])
    own = [v for v in own if v.member.seed == own[0].member.seed]
    points = sorted((v.member.parameters, v.value) for v in own)
    if not points:
        return []
    return [Series(label, points, colour=colour, marker=colour, dashed=dashed, markers=True)]
