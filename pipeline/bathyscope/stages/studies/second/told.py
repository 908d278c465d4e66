"""How records become verdicts: which are chosen, and how a claim is put with its doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bathyscope.config import Config
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.protocols import EQUAL_COUNT, middle
from bathyscope.stages.studies.second.needed import map_tokens
from bathyscope.stages.studies.second.reach import judged, of
from bathyscope.stages.studies.second.spreads import (
    Spread,
    censored_told,
    count_told,
    over_models_of,
    over_models_told,
    ratio_of,
)
from bathyscope.stages.studies.second.starts import ITSELF, MAPPED, SCRATCH
from bathyscope.stages.studies.verdicts import Row

SHARE = 1 / 2
"""Of the training from scratch: the loss that it has there is the one that verdicts are about."""
_TIMES = "times fewer tokens, those of the map counted"


class Judged:
    """The records that verdicts are made of, by one protocol and loss."""

    def __init__(self, config: Config, records: Sequence[Row], protocol: str = EQUAL_COUNT) -> None:
        self.config = config
        self.n = middle(map_tokens(config))
        self._all = of(judged(records), protocol=protocol)
        self.records = of(self._all, share=SHARE)

    def at(self, start: str, *comparisons: str, n: int | None = None) -> list[Row]:
        """Records of a start; those with a map are of the middle number of its rows."""
        found = of(self.records, start=start)
        if start not in (SCRATCH, ITSELF):
            found = of(found, map_tokens=n or self.n)
        return of(found, comparison=comparisons) if comparisons else found

    def told(self, start: str, *comparisons: str, key: str = "saving") -> str:
        """The ratio of a start, as a control is told."""
        return ratio_of(self.at(start, *comparisons), self.config, key).told()

    def itself_told(self) -> str:
        """The most that can be hoped for: a dictionary that was trained on the target already."""
        records = self.at(ITSELF)
        if records and all(r["censored"] == "start" for r in records):
            return "its own dictionary of another seed has that loss before its first step"
        return f"from its own dictionary of another seed {ratio_of(records, self.config).told()}"

    def at_share(self, share: float, *comparisons: str) -> str:
        """The ratio of what is mapped, to another loss."""
        some = of(self._all, share=share, start=MAPPED, map_tokens=self.n, comparison=comparisons)
        return ratio_of(some, self.config).told()


def answer_of_sign(found: Spread, *, zero: float = 1.0) -> str:
    """Whether a figure lies above what stands for no difference."""
    if math.isnan(found.value):
        return "not measured"
    if found.low > zero:
        return "yes"
    return "no" if found.high < zero else "not shown"


def verdict(
    claim: str,
    found: Spread,
    records: Sequence[Row],
    *,
    doubt: str = "",
    unit: str = _TIMES,
    key: str = "saving",
    controls: str,
    would_change: str,
) -> Verdict:
    """A claim with its figure: that a ratio is above 1, or the mean of another column above 0."""
    of_ratio = key == "saving"
    wide, zero = over_models_of(records, key), 1.0 if of_ratio else 0.0
    told = [count_told(records), over_models_told(wide), doubt]
    if of_ratio:
        told.insert(1, censored_told(records))
    return Verdict(
        claim=claim,
        answer=_agreed(answer_of_sign(found, zero=zero), wide, zero),
        value=found.value,
        low=found.low,
        high=found.high,
        unit=unit,
        controls=controls,
        doubt=" ".join(filter(None, told)),
        would_change=would_change,
    )


def _agreed(answer: str, wide: Spread, zero: float) -> str:
    """The answer, if it holds with each model left out in turn too, where that was possible."""
    if answer not in ("yes", "no") or math.isnan(wide.low):
        return answer
    return answer if answer_of_sign(wide, zero=zero) == answer else "not shown"


def sentence(parts: Sequence[str]) -> str:
    """Parts of a control as one sentence."""
    told = "; ".join(parts)
    return f"{told[:1].upper()}{told[1:]}."
