"""Models at equal training: what each was when it had read as many tokens per parameter.

A family that reads one text gives its larger models fewer tokens for each parameter, so that a
trend over size may be one of training. At a ratio r the value of a model of N parameters is that
after rN tokens, on a straight line in ln tokens between the two checkpoints around it:

    value = v_a + (v_b - v_a) ln(rN / t_a) / ln(t_b / t_a)        t_a ≤ rN ≤ t_b

The ratio is the largest that all have reached, min over models of t_last / N. It is a fraction, so
that the model it comes from is taken at its checkpoint and not a rounding beside it. Tokens per
parameter decide how well a size is trained (Hoffmann et al. 2022, arXiv:2203.15556).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise


def common_ratio(parameters: Sequence[int], tokens: Sequence[Sequence[int]]) -> Fraction | None:
    """The largest ratio of tokens to parameters that lies within the checkpoints of every model.

    `tokens` are those of each model's checkpoints. None where a model has no checkpoint, or where
    one of them begins after another has ended. Raises `ValueError` for unequal lengths, parameters
    or tokens below 1.
    """
    if len(parameters) != len(tokens):
        raise ValueError(
            f"{len(parameters)} models and the checkpoints of {len(tokens)}: wanted as many"
        )
    if any(n < 1 for n in parameters) or any(t < 1 for own in tokens for t in own):
        raise ValueError("parameters and tokens must be at least 1; leave first weights out")
    if not parameters or not all(tokens):
        return None
    largest = min(Fraction(max(own), n) for n, own in zip(parameters, tokens, strict=True))
    first = max(Fraction(min(own), n) for n, own in zip(parameters, tokens, strict=True))
    return largest if first <= largest else None


def around(tokens: Sequence[int], wanted: Fraction) -> tuple[int, int]:
    """The checkpoints before and after a number of tokens; the same one twice where it is there.

    Raises `ValueError` where no checkpoint lies before it, or none after it.
    """
    ordered = sorted(set(tokens))
    if not ordered or not ordered[0] <= wanted <= ordered[-1]:
        raise ValueError(
            f"{float(wanted):,.0f} tokens lie outside of the checkpoints {ordered}: wanted one "
            "before and one after"
        )
    if wanted in ordered:
        return int(wanted), int(wanted)
    return next((a, b) for a, b in pairwise(ordered) if a < wanted < b)


def at_tokens(points: Sequence[tuple[int, float]], wanted: Fraction) -> float:
    """The value after so many tokens; `points` are (tokens, value) of checkpoints.

    Raises `ValueError` where no checkpoint lies before it, or none after it.
    """
    values = dict(points)
    before, after = around(list(values), wanted)
    if before == after:
        return values[before]
    share = math.log(wanted / before) / math.log(after / before)
    return values[before] + share * (values[after] - values[before])
