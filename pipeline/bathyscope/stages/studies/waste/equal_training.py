"""Whether larger models waste more at equal training, and at equal loss: is it the size?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bathyscope.config import Config
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.equal_loss import Asked, Pair, equal_loss_verdicts, pairs_of
from bathyscope.stages.studies.equal_training import DOUBT, at_ratios, ratio_words, ratios
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import (
    Of,
    Row,
    by_architecture,
    slope_told,
    training_told,
    trend_verdict,
)
from bathyscope.stages.studies.waste.along import METHODS_ALONG, curve_along, measured_along
from bathyscope.stages.studies.waste.methods import Method
from bathyscope.stages.studies.waste.shares import removable, spread_of
from bathyscope.stages.studies.waste.together import WASTE_MORE, agreement

_MUCH_AT_RANDOM = 0.1
"""Share of random weights whose removal within the budget says that little was learned."""
Values = Callable[[Row], float]
_CHANGE = (
    "The opposite sign at more tokens per parameter, or with a learning rate that has come to its "
    "end there."
)


def at_equal_training(
    config: Config, members: Sequence[Member], rows: Sequence[Row]
) -> list[Verdict]:
    """At equal tokens per parameter: the methods together, then each by itself."""
    verdicts = []
    for name, ratio in ratios(members).items():
        own = {m: _at(name, members, rows, m) for m in METHODS_ALONG}
        judging = {m: values for m, values in own.items() if not m.control}
        claim = f"{name}: at {ratio_words(ratio)}, {WASTE_MORE}"
        controls = _controls(name, members, rows, own)
        doubt = f"{_losses(name, members, rows)} {_learned(own)}{DOUBT}"
        for verdict in agreement(config, claim, judging, rows, _upper(controls)):
            verdicts.append(replace(verdict, doubt=f"{verdict.doubt} {doubt}"))
        for method, values in judging.items():
            slope = slope_told(config, _removable(name, members, rows, method))
            verdicts += trend_verdict(
                f"at {ratio_words(ratio)}, the share that {method.words} removes at "
                f"{config.study.budget_nats:g} nats rises with the size.",
                values,
                config,
                wanted="rises",
                unit="share",
                controls=f"Trend of last weights{slope}; {controls}",
                doubt=doubt,
                would_change=_CHANGE,
            )
    return verdicts


def at_equal_loss(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> list[Verdict]:
    """Whether the larger of two models of equal loss can spare more, by each method."""
    verdicts = []
    [control] = [m for m in METHODS_ALONG if m.control]
    chance = (control.words, pairs_at_loss(members, rows, control))
    for method in METHODS_ALONG:
        if method == control:
            continue
        asked = Asked(
            f"the larger of two models can spare a larger share by {method.words}.",
            "share",
            "higher",
            "Nothing is trained again after removal.",
            chance,
        )
        verdicts += equal_loss_verdicts(config, asked, pairs_at_loss(members, rows, method))
    return verdicts


def pairs_at_loss(members: Sequence[Member], rows: Sequence[Row], method: Method) -> list[Pair]:
    """Adjacent sizes of which the larger one was measured along its training."""
    found = pairs_of(members, lambda member: curve_along(rows, member, method.name))
    return [p for p in found if next(measured_along(rows, p.larger, method.name), None)]


def _at(
    name: str,
    members: Sequence[Member],
    rows: Sequence[Row],
    method: Method,
    value: Values = lambda row: float(row["removable"]),
) -> list[Of]:
    """A figure of each member of an architecture at its ratio."""

    def curve(member: Member) -> list[tuple[int, float]]:
        along = measured_along(rows, member, method.name)
        return [(row["state_tokens"], value(row)) for row in along]

    return at_ratios(members, ratios(members), curve).get(name, [])


def _losses(name: str, members: Sequence[Member], rows: Sequence[Row]) -> str:
    found = _at(name, members, rows, METHODS_ALONG[0], lambda row: float(row["clean_loss"]))
    return f"Held-out losses there are {spread_of(found)} nats."


def _learned(own: dict[Method, list[Of]]) -> str:
    """A doubt where some models have learned so little that anything may go."""
    chance = [v.value for method, values in own.items() if method.control for v in values]
    if max(chance, default=0.0) < _MUCH_AT_RANDOM:
        return ""
    return (
        "Some have learned so little that random weights can go too, up to "
        f"{max(chance):.0%}: what they spare is not waste. "
    )


def _controls(
    name: str,
    members: Sequence[Member],
    rows: Sequence[Row],
    own: dict[Method, list[Of]],
) -> str:
    told = [f"{method.words} {spread_of(values)}" for method, values in own.items() if values]
    alike = [v.member for v in _removable(name, members, rows, METHODS_ALONG[0])]
    return f"shares there {'; '.join(told)}. Of last weights: {training_told(alike)}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _removable(
    name: str, members: Sequence[Member], rows: Sequence[Row], method: Method
) -> list[Of]:
    """The removable share of the last weights of an architecture."""
    return by_architecture(removable(members, rows, method.name)).get(name, [])
