"""Superposition over size at equal tokens per parameter: is a trend one of size, or of training?"""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.config import Config
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.equal_training import DOUBT, at_ratios, ratio_words, ratios
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.superposition.figures import of
from bathyscope.stages.studies.superposition.quantities import Quantity, curve_of
from bathyscope.stages.studies.superposition.verdicts import CLAIMS, Claim
from bathyscope.stages.studies.verdicts import (
    Of,
    Row,
    judged,
    means,
    slope_told,
    spread,
    training_told,
    trend_verdict,
)


def at_equal_training(
    config: Config, members: Sequence[Member], rows: Sequence[Row]
) -> list[Verdict]:
    """A verdict per claim and architecture, of claims that were measured along the training."""
    found, verdicts = ratios(members), list[Verdict]()
    for claim in CLAIMS:
        quantity = Quantity(claim.kind, claim.key, claim.unit, "lower")

        def values(member: Member, quantity: Quantity = quantity) -> list[tuple[int, float]]:
            return [(p.step, p.value) for p in curve_of(member, rows, quantity)]

        for name, own in at_ratios(members, found, values).items():
            verdicts += trend_verdict(
                f"at {ratio_words(found[name])}, {claim.words}",
                own,
                config,
                wanted=claim.wanted,
                unit=claim.unit,
                controls=_controls(config, claim, [v.member for v in own], members, rows),
                doubt=f"{_losses(members, rows, name, quantity)} {DOUBT} {claim.doubt}",
                would_change="The opposite sign at more tokens per parameter, or with a learning "
                "rate that has come to its end there.",
            )
    return verdicts


def _controls(
    config: Config,
    claim: Claim,
    alike: Sequence[Member],
    members: Sequence[Member],
    rows: Sequence[Row],
) -> str:
    """The same trend of last weights, and of models of this architecture without training."""
    untrained = [m for m in members if not m.trained and m.architecture == alike[0].architecture]
    told = [
        f"{words} {spread(v.value for v in values)}{slope_told(config, values)}"
        for words, values in (
            ("last weights", means(judged(alike), rows, claim.key, of(claim.kind))),
            ("models without training", means(untrained, rows, claim.key, of(claim.kind))),
        )
    ]
    return f"{'; '.join(told)}. {training_told(alike)}"


def _losses(members: Sequence[Member], rows: Sequence[Row], name: str, quantity: Quantity) -> str:
    def losses(member: Member) -> list[tuple[int, float]]:
        return [(p.step, p.loss) for p in curve_of(member, rows, quantity)]

    found: list[Of] = at_ratios(members, ratios(members), losses)[name]
    return f"Held-out losses there are {spread(v.value for v in found)} nats."
