"""How much of what a graph explains goes through latents rather than errors.

Replacement score: I_tokens / (I_tokens + I_errors), of the influence that ends in tokens and in
errors. Completeness score: Σ_t (1 - Σ_{s in errors} Â[t, s]) · (I_t + p_t) / Σ_t (I_t + p_t). Since
Σ_t Â[t, s] · (I_t + p_t) is the influence of s, it is 1 - I_errors / Σ_t (I_t + p_t), and both
need influence alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bathyscope.attribution.graphs.graph import Floats, Graph


class Scores(NamedTuple):
    """Both from 0 to 1; NaN where no influence reaches a token or an error."""

    replacement: float
    completeness: float


def scores_of(graph: Graph, influence: Floats) -> Scores:
    """The scores of a graph from the influence of its nodes [n]."""
    errors, tokens = influence[graph.errors].sum(), influence[graph.tokens].sum()
    through = influence.sum() + graph.logit_weights().sum()
    with np.errstate(invalid="ignore"):
        return Scores(float(tokens / (tokens + errors)), float(1 - errors / through))
