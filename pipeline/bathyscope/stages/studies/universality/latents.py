"""Do latents of two models answer to the same rows? A match, with what it has to be held against.

Partners are chosen on training rows and scored on held-out rows, so that nothing is gained by the
choice alone. Every floor is chosen and scored in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from bathyscope.stages.studies.paired_rows import DOCUMENTS, ROWS, Blocks, Paired, shuffled
from bathyscope.studies.floors import (
    token_candidates,
    token_correlations,
)
from bathyscope.studies.jackknife import jackknife
from bathyscope.studies.latent_pairs import LatentPairs
from bathyscope.studies.matching import LatentMatch, candidates, figures, match_latents, rescored
from bathyscope.studies.partial import partial_candidates, partial_correlations
from bathyscope.studies.sparse_rows import Floats, Integers
from bathyscope.studies.token_sums import TokenSums
from bathyscope.values import Json

Latents = tuple[Tensor, Tensor]
_SHARES = ("mean", "mean_by_firing", "share_above_0.5", "share_above_0.7")


class Matched:
    """The match of two dictionaries' latents on paired rows."""

    def __init__(self, train: Paired, held_out: Paired, widths: tuple[int, int]) -> None:
        self.train, self.held_out, self.widths = train, held_out, widths
        self._fitted = _sums(train, widths)
        self._scored = _sums(held_out, widths)
        self.chosen = match_latents(candidates(self._fitted))
        self.scored = rescored(self.chosen, self._scored)

    def record(self) -> Json:
        """Scores of the match, one-sided and one to one, with the interval of the latter."""
        found = self.scored.summary()
        matched = self.scored.matched[self.scored.usable]
        usable_b = self.widths[1] - self.chosen.left_out[1]
        names = [f"{kind}_{name}" for kind in ("matched", "one_sided") for name in _SHARES]
        low, high = self._interval()
        return {
            "latents_scored": int(found["num_latents"]),
            "latents_best_partners": int(found["num_best_partners"]),
            **{name: found[name] for name in names},
            "matched_low": low,
            "matched_high": high,
            "overstated": found["overstated"],
            "found_in_b": float((matched > 0.7).sum()) / usable_b if usable_b else math.nan,
            "exact": bool(found["exact"]),
        }

    def shuffles(self, *, seed: int) -> Json:
        """The same with rows of b, and with its documents, in another order."""
        found: Json = {}
        for kind in (ROWS, DOCUMENTS):
            train = shuffled(self.train, kind, seed=seed)
            held_out = shuffled(self.held_out, kind, seed=seed)
            if train is None or held_out is None:
                continue
            match = match_latents(candidates(_sums(train, self.widths)))
            scores = rescored(match, _sums(held_out, self.widths)).summary()
            found[f"shuffled_{kind}_mean"] = scores["matched_mean"]
            found[f"shuffled_{kind}_one_sided_mean"] = scores["one_sided_mean"]
        return found

    def without_tokens(self) -> Json:
        """What a knows from its current token alone, and what is left beyond the token."""
        if self.train.tokens is None or self.held_out.tokens is None:
            return {}
        vocabulary = 1 + max(int(self.train.tokens.max()), int(self.held_out.tokens.max()))
        train_a, train_b = _token_sums(self.train, vocabulary, self.widths)
        held_a, held_b = _token_sums(self.held_out, vocabulary, self.widths)
        floor = match_latents(token_candidates(train_a, train_b))
        told = _scores(
            floor, lambda in_a, in_b: token_correlations(train_a, held_b, in_a, in_b), self.scored
        )
        left = match_latents(
            partial_candidates(self._fitted, train_a, train_b, among=candidates(self._fitted))
        )
        beyond = _scores(
            left,
            lambda in_a, in_b: partial_correlations(self._scored, held_a, held_b, in_a, in_b),
            self.scored,
        )
        return {
            **_named("token_floor", told, self.scored),
            **_named("partial", beyond, self.scored),
        }

    def _interval(self) -> tuple[float, float]:
        """Over blocks of held-out documents, with the partners held."""
        if len(self.held_out.cuts) < 2:
            return math.nan, math.nan
        blocks = Blocks(
            self.held_out.cuts, lambda cut: _sums(_part(self.held_out, cut), self.widths)
        )
        usable = self.scored.usable
        found = jackknife(
            blocks, lambda sums: float(rescored(self.chosen, sums).matched[usable].mean())
        )
        return found.low, found.high


def _sums(paired: Paired, widths: tuple[int, int]) -> LatentPairs:
    sums = LatentPairs(*widths)
    sums.update(*paired.a, *paired.b)
    return sums


def _token_sums(
    paired: Paired, vocabulary: int, widths: tuple[int, int]
) -> tuple[TokenSums, TokenSums]:
    assert paired.tokens is not None, "rows are tokens"
    both = TokenSums(vocabulary, widths[0]), TokenSums(vocabulary, widths[1])
    for sums, latents in zip(both, (paired.a, paired.b), strict=True):
        sums.update(paired.tokens, *latents)
    return both


def _scores(
    match: LatentMatch, correlations: Callable[[Integers, Integers], Floats], like: LatentMatch
) -> Floats:
    """Held-out scores of a match for the latents that `like` scores; 0 without a partner."""
    scores = np.zeros(len(match.partners))
    paired = np.flatnonzero(match.partners >= 0)
    scores[paired] = np.nan_to_num(correlations(paired, match.partners[paired]), nan=0.0)
    return scores[like.usable]


def _named(name: str, scores: Floats, like: LatentMatch) -> Json:
    return figures(name, scores, like.firings[like.usable])


def _part(paired: Paired, cut: slice) -> Paired:
    return Paired(
        x=paired.x[cut],
        y=paired.y[cut],
        a=(paired.a[0][cut], paired.a[1][cut]),
        b=(paired.b[0][cut], paired.b[1][cut]),
        documents=paired.documents[cut],
        tokens=None if paired.tokens is None else paired.tokens[cut],
    )
