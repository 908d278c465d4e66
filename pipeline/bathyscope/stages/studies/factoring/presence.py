"""Whether latents form modules at all: what modularity is beyond each null model and control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.factoring.above import (
    above_zero,
    less,
    less_first_weights,
    mean_of,
)
from bathyscope.stages.studies.factoring.attribution import LAYERS
from bathyscope.stages.studies.factoring.measures import BEYOND, COFIRING, DICTIONARY, RANDOM
from bathyscope.stages.studies.factoring.nulls import DEGREES, MARGINS, TOKENS
from bathyscope.stages.studies.factoring.rows import (
    STRAIGHT,
    counts_of,
    counts_told,
    is_attribution,
    of,
    range_of,
)
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import Of, Row, judged, means

OF_TOKEN = "the current token makes most of what fires together"
_HALF = 0.5
_MORE_CONTROLS = "More seeds of the control, and more text, with the opposite sign."


@dataclass(frozen=True)
class _Seen:
    """Graphs of one protocol, of the models that carry verdicts and of first weights."""

    own: Sequence[Member]
    untrained: Sequence[Member]
    rows: Sequence[Row]
    protocol: str
    words: str

    def values(self, key: str, kind: str = DICTIONARY, graph: str = COFIRING) -> list[Of]:
        """A column of the graphs with edges enough."""
        return means(self.own, self.rows, key, of(self.protocol, kind, graph))

    def first(self, key: str, graph: str = COFIRING) -> list[Of]:
        """The same of models with their first weights."""
        return means(self.untrained, self.rows, key, of(self.protocol, graph=graph))

    def told(self, key: str, kind: str = DICTIONARY, graph: str = COFIRING) -> str:
        """Smallest to largest."""
        return range_of(self.values(key, kind, graph))

    def edges(self, key: str, graph: str = COFIRING) -> str:
        """The same of a number of edges, however few."""
        return counts_told(means(self.own, self.rows, key, counts_of(self.protocol, graph=graph)))

    def nulls(self) -> str:
        """Q, and that of each null model."""
        return (
            f"Q {self.told('q')}; rewired graphs {self.told(f'{DEGREES}_q')}, traded firings "
            f"{self.told(f'{MARGINS}_q')}, traded within a token {self.told(f'{TOKENS}_q')}."
        )

    def stable(self) -> str:
        """How well partitions agree."""
        return (
            "Halves of the documents agree on communities with an adjusted Rand index of "
            f"{self.told('halves_ari')}, seeds of Leiden of {self.told('leiden_ari')}, two "
            f"dictionaries of {self.told('seeds_ari')}."
        )


def there_are(
    members: Sequence[Member], rows: Sequence[Row], protocol: str, words: str
) -> list[Verdict]:
    """Of latents that fire together in one protocol."""
    untrained = [m for m in members if not m.trained]
    seen = _Seen(judged(members), untrained, rows, protocol, words)
    return [*_beyond_chance(seen), *_beyond_token(seen), *_beyond_controls(seen)]


def _beyond_chance(seen: _Seen) -> list[Verdict]:
    return [
        above_zero(
            f"At {seen.words}, latents form modules beyond their degrees.",
            seen.values(f"{DEGREES}_less"),
            seen.nulls(),
            f"Strengths are kept on average only. {seen.stable()}",
        ),
        above_zero(
            f"At {seen.words}, latents form modules beyond how often they and rows fire.",
            seen.values(f"{MARGINS}_less"),
            f"{seen.nulls()} Edges {seen.edges('edges')}; by the same rule traded firings have "
            f"{seen.edges(f'{MARGINS}_edges_found')}.",
            f"z is {seen.told(f'{MARGINS}_z')}, and grows with the graph. {seen.stable()}",
        ),
    ]


def _beyond_token(seen: _Seen) -> list[Verdict]:
    return [
        above_zero(
            f"At {seen.words}, modules are more than the token makes: Q beyond firings traded "
            "within a token.",
            seen.values(f"{TOKENS}_less"),
            f"{seen.nulls()} The same rule finds {seen.edges(f'{TOKENS}_edges_found')} edges where "
            "firings are traded within a token, in communities that agree with the real ones by "
            f"{seen.told(f'{TOKENS}_ari')}.",
            "A token's latents are a module by this count, whatever they mean.",
            "Clearer modules than the token's on longer text, or deeper in larger models.",
        ),
        _made_by_token(seen),
        above_zero(
            f"At {seen.words}, what fires together beyond the token forms modules beyond degrees.",
            seen.values(f"{DEGREES}_less", graph=BEYOND),
            f"Q {seen.told('q', graph=BEYOND)}, rewired "
            f"{seen.told(f'{DEGREES}_q', graph=BEYOND)}; edges beyond the token "
            f"{seen.edges('edges', BEYOND)} of {seen.edges('edges')}, and "
            f"{seen.edges('rule_finds', BEYOND)} where firings are traded within a token; random "
            f"dictionaries {seen.told(f'{DEGREES}_less', RANDOM, BEYOND)}, models without training "
            f"{range_of(seen.first(f'{DEGREES}_less', BEYOND))}.",
            "The token before and the position are not taken away, and may make all of them.",
        ),
    ]


def _beyond_controls(seen: _Seen) -> list[Verdict]:
    degrees, random = seen.values(f"{DEGREES}_less"), seen.values(f"{DEGREES}_less", RANDOM)
    margins, first = seen.values(f"{MARGINS}_less"), seen.first(f"{MARGINS}_less")
    return [
        above_zero(
            f"At {seen.words}, trained dictionaries have clearer modules than random directions.",
            less(degrees, random),
            f"Q beyond rewired graphs {range_of(degrees)}, random directions {range_of(random)}.",
            "Random directions fire together where they point alike, which is a module too.",
            _MORE_CONTROLS,
        ),
        above_zero(
            f"At {seen.words}, training makes modules clearer than those of first weights.",
            less_first_weights(margins, first),
            f"Q beyond traded firings {range_of(margins)}, models without training "
            f"{range_of(first)}.",
            "A model without training passes its tokens on, so that its modules are tokens. One "
            "set of first weights stands for a size.",
            _MORE_CONTROLS,
        ),
    ]


def _made_by_token(seen: _Seen) -> Verdict:
    """How few edges are left where the token is taken away."""
    values = _shares_left(seen, seen.own, DICTIONARY)
    found = above_zero(
        f"At {seen.words}, {OF_TOKEN}.",
        [Of(each.member, _HALF - each.value) for each in values],
        "Edges beyond the token, of those there are: random directions "
        f"{range_of(_shares_left(seen, seen.own, RANDOM))}, models without training "
        f"{range_of(_shares_left(seen, seen.untrained, DICTIONARY))}.",
        "The test beyond the token is the weaker one: what two traded copies differ by is in its "
        "error.",
        "Half of the edges or more left on ten times the text.",
    )
    mean = mean_of([each.value for each in values])
    return replace(
        found,
        value=mean.value,
        low=mean.low,
        high=mean.high,
        unit="share of edges left beyond the token; less than half is wanted",
    )


def _shares_left(seen: _Seen, members: Sequence[Member], kind: str) -> list[Of]:
    """Edges beyond the token over all edges, of each member."""
    beyond, every = (
        {
            v.member.name: v
            for v in means(members, seen.rows, "edges", counts_of(seen.protocol, kind, graph))
        }
        for graph in (BEYOND, COFIRING)
    )
    return [
        Of(v.member, v.value / every[name].value)
        for name, v in beyond.items()
        if name in every and every[name].value
    ]


def attribution_has_modules(members: Sequence[Member], rows: Sequence[Row]) -> list[Verdict]:
    """Of attribution graphs."""
    own, untrained = judged(members), [m for m in members if not m.trained]

    def told(key: str) -> str:
        return range_of(means(own, rows, key, is_attribution))

    first = means(untrained, rows, f"{LAYERS}_less", is_attribution)
    token = (
        f"token alone {told('token_q')}, which has {told('token_shared')} of the edges, in "
        f"communities that agree with the real ones by {told('token_ari')}"
    )
    stable = (
        f"Halves of the documents agree by {told('halves_ari')}, seeds of Leiden by "
        f"{told('leiden_ari')}."
    )
    return [
        above_zero(
            "Attribution graphs have modules beyond the edges of each latent to each block.",
            means(own, rows, f"{LAYERS}_less", is_attribution),
            f"Q {told('q')}; sources traded within two blocks {told(f'{LAYERS}_q')}; models "
            f"without training {range_of(first)} beyond that. A module is spread over "
            f"{told('across_layers')} blocks.",
            f"{STRAIGHT} {stable}",
        ),
        above_zero(
            "Attribution graphs have clearer modules than the current token makes.",
            means(own, rows, "token_less", is_attribution),
            f"Q {told('q')}; {token}.",
            f"{STRAIGHT} Means of a token have less noise, which may make its modules clearer.",
            "Paths through attention, which carry what other tokens say.",
        ),
    ]
