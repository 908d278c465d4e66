"""What the graphs show: whether size makes more modules, and more separate ones.

Modularity says that there are modules only beyond its null graphs, so every claim is on a
difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bathyscope.config import Config
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.factoring.above import less
from bathyscope.stages.studies.factoring.attribution import LAYERS
from bathyscope.stages.studies.factoring.measures import BEYOND, COFIRING, DICTIONARY, RANDOM
from bathyscope.stages.studies.factoring.nulls import DEGREES, MARGINS
from bathyscope.stages.studies.factoring.presence import (
    OF_TOKEN,
    attribution_has_modules,
    there_are,
)
from bathyscope.stages.studies.factoring.rows import (
    STRAIGHT,
    is_attribution,
    of,
    range_of,
    trends_or_none,
)
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.protocols import EQUAL_RATIO, PROTOCOLS
from bathyscope.stages.studies.verdicts import (
    Of,
    Row,
    by_architecture,
    judged,
    means,
    training_told,
    trend_of,
    trend_verdict,
)

MORE = "larger models fall apart into more modules"
SEPARATE = "modules of larger models are more separate"
BEYOND_TOKEN = "modules of larger models are more separate beyond the current token"
_FURTHER = "The opposite sign with more sizes, longer text or dictionaries trained to convergence."
_RESOLUTION = (
    "Modularity does not see modules much smaller than √(2 edges) (Fortunato and Barthélemy 2007)."
)
_SIZE_OF_GRAPH = "Q and that of null graphs both depend on how many edges and latents there are."


def verdicts(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Verdict]:
    """By size, for both protocols and for attributions; then whether there are modules at all."""
    found = []
    for protocol, words in PROTOCOLS.items():
        found += _by_size(config, members, rows, protocol, words)
    found += _attribution_by_size(config, members, rows)
    for protocol, words in PROTOCOLS.items():
        found += there_are(members, rows, protocol, words)
    return [*found, *attribution_has_modules(members, rows)]


def answer(found: Sequence[Verdict]) -> str:
    """The claims on size, then how much of it is the token."""
    told = []
    for claim, start, words in (
        (f"{MORE}.", "More modules in larger models", "shown"),
        (f"{SEPARATE}.", "More separate ones", "shown"),
        (f"{OF_TOKEN}.", "Most of what fires together is made by the current token", "yes"),
    ):
        answers: dict[str, list[str]] = {}
        for verdict in found:
            if verdict.claim.endswith(claim):
                answer = {"yes": words, "no": "the opposite"}.get(verdict.answer, verdict.answer)
                where = verdict.claim.removesuffix(f", {claim}").replace(": ", " ", 1)
                answers.setdefault(answer, []).append(where[:1].lower() + where[1:])
        each = [f"{answer} ({'; '.join(places)})" for answer, places in answers.items()]
        told.append(f"{start}: {', '.join(each) or 'not measured'}.")
    return " ".join(told)


def _by_size(
    config: Config, members: Sequence[Member], rows: Sequence[Row], protocol: str, words: str
) -> list[Verdict]:
    own, untrained = judged(members), [m for m in members if not m.trained]
    found = []
    for claim, key, graph, unit in (
        (MORE, "effective_communities", COFIRING, "modules of equal size"),
        (SEPARATE, f"{MARGINS}_less", COFIRING, "Q beyond traded firings"),
        (BEYOND_TOKEN, f"{DEGREES}_less", BEYOND, "Q beyond rewired graphs"),
    ):
        where = of(protocol, graph=graph)
        values = means(own, rows, key, where)
        controls = [
            f"Models {range_of(values)}",
            *trends_or_none("models without training", means(untrained, rows, key, where), config),
            *trends_or_none(
                "random dictionaries", means(own, rows, key, of(protocol, RANDOM, graph)), config
            ),
        ]
        doubt = _SIZE_OF_GRAPH
        if claim == MORE:
            for name, which in ((DEGREES, "rewired graphs"), (MARGINS, "traded firings")):
                controls += trends_or_none(
                    which, means(own, rows, f"{name}_effective", where), config
                )
            doubt = _RESOLUTION
        if claim == SEPARATE:
            random = [means(own, rows, f"{DEGREES}_less", of(protocol, kind))
                      for kind in (DICTIONARY, RANDOM)]  # fmt: skip
            for which, each in zip(("dictionaries", "random directions"), random, strict=True):
                controls += trends_or_none(f"beyond rewired graphs, {which}", each, config)
            doubt = f"{_gained_by_random(config, *random)}{doubt}"
        if protocol == EQUAL_RATIO:
            doubt += " F grows with the size here."
        told = trend_verdict(
            f"at {words}, {claim}.",
            values,
            config,
            wanted="rises",
            unit=unit,
            controls="; ".join(controls) + ".",
            doubt=f"{doubt} {training_told(own)}".rstrip(),
            would_change=_FURTHER,
        )
        if claim == MORE:
            null = means(own, rows, f"{DEGREES}_effective", where)
            told = [_more_than_null(config, each, values, null) for each in told]
        found += told
    return found


def _gained_by_random(config: Config, values: Sequence[Of], random: Sequence[Of]) -> str:
    """Says of which architectures random directions gain as much as dictionaries do."""
    told = ""
    for name, own in by_architecture(values).items():
        gained = trend_of([v for v in random if v.member.architecture == name], config)
        beyond = trend_of(less(own, random), config)
        if gained and beyond and gained.verdict == "rises" and beyond.verdict != "rises":
            told += f"Random directions of the same F and L0 gain as much in {name}. "
    return told


def _more_than_null(
    config: Config, verdict: Verdict, values: Sequence[Of], null: Sequence[Of]
) -> Verdict:
    """The verdict, or "not shown" where null graphs of the same sizes gain as many modules."""
    own = by_architecture(values)[verdict.claim.partition(":")[0]]
    beyond = trend_of(less(own, null), config)
    if verdict.answer != "yes" or (beyond is not None and beyond.verdict == "rises"):
        return verdict
    doubt = "Null graphs of these numbers of latents and edges gain as many: no sign of the model."
    return replace(verdict, answer="not shown", doubt=f"{doubt} {verdict.doubt}")


def _attribution_by_size(
    config: Config, members: Sequence[Member], rows: Sequence[Row]
) -> list[Verdict]:
    own, untrained = judged(members), [m for m in members if not m.trained]
    found = []
    for claim, key, unit, doubt in (
        (MORE, "effective_communities", "modules of equal size", _RESOLUTION),
        (SEPARATE, f"{LAYERS}_less", "Q beyond graphs with sources traded", _SIZE_OF_GRAPH),
    ):
        controls = [
            f"Models {range_of(means(own, rows, key, is_attribution))}",
            *trends_or_none(
                "models without training", means(untrained, rows, key, is_attribution), config
            ),
        ]
        null = means(own, rows, f"{LAYERS}_effective", is_attribution)
        if claim == MORE:
            controls += trends_or_none("graphs with sources traded", null, config)
        values = means(own, rows, key, is_attribution)
        told = trend_verdict(
            f"in attribution graphs, {claim}.",
            values,
            config,
            wanted="rises",
            unit=unit,
            controls="; ".join(controls) + ".",
            doubt=f"Latents grow with d here. {STRAIGHT} {doubt} {training_told(own)}".rstrip(),
            would_change=_FURTHER,
        )
        if claim == MORE:
            told = [_more_than_null(config, each, values, null) for each in told]
        found += told
    return found
