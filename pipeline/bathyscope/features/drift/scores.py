"""Small integers that stand for a document: class of density, log scores.

A test that a single document can dominate is no test of a source. So what a document contributes is
its class or its logarithm, never its count: a document that repeats one token 10,000 times counts
like any other that is full of it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

NUM_CLASSES = 12
"""Classes of density, octaves: class 12 is half of the document's tokens or more, class 1 fewer
than one in 2^11. Class 0 are the documents in which the latent does not fire."""
STEPS_PER_OCTAVE = 64
"""A log score of 64 is twice the scale."""
LARGEST_SCORE = 16 * STEPS_PER_OCTAVE
"""Log scores are cut at 16 octaves from the scale, either way."""

SERIES = ("tokens", "l0", "norm", "fvu")
"""What is measured per document whatever the latents: rows, latents per row, squared norm per row
in norm scales, share of the squared norm that is not explained."""


def density_class(firings: Ints, tokens: Ints) -> Ints:
    """Return the class 1 to 12 of each density firings / tokens, 13 + floor(log2(density))."""
    # frexp gives the octave exactly, where a logarithm would round at the edges.
    _, exponents = np.frexp(firings / tokens)
    return np.clip(NUM_CLASSES + exponents.astype(np.int64), 1, NUM_CLASSES)


def log_score(numerators: NDArray[Any], denominators: NDArray[Any]) -> Ints:
    """Return round(64 log2(numerator / denominator)), cut at ±1024; -1024 at or below 0."""
    ratios = numerators / denominators
    above = ratios > 0
    octaves = np.log2(np.where(above, ratios, 1.0))
    scores = np.rint(STEPS_PER_OCTAVE * octaves).astype(np.int64)
    return np.where(above, np.clip(scores, -LARGEST_SCORE, LARGEST_SCORE), -LARGEST_SCORE)


def ratio_of_scores(difference: float) -> float:
    """Return the ratio that a difference of mean log scores stands for, 2^(difference / 64)."""
    return math.exp2(difference / STEPS_PER_OCTAVE)
