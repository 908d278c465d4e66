"""How the study of universality measures, as its page tells it."""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.config import Config
from bathyscope.stages.studies.aligned_text import MOST_TOKENS
from bathyscope.stages.studies.universality.measures import FIT_ROWS
from bathyscope.stages.studies.universality.pairs import NEAR
from bathyscope.stages.studies.universality.told import alignment, by_spans
from bathyscope.stages.studies.verdicts import Row


def protocol(config: Config, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What was compared, how it was aligned, and what an interval is over; `rows` are measured."""
    study = config.study
    unit = "tokens" if by_spans(rows) else "rows"
    middle = study.expansions[len(study.expansions) // 2], study.k_shares[len(study.k_shares) // 2]
    return [
        (
            "Rows",
            f"{_places(rows)}, about {study.held_out_tokens:,} held-out {unit} for scores and "
            f"{FIT_ROWS * study.held_out_tokens:,} training {unit} for the choice of partners; "
            f"first positions are left out. After {study.depth:.0%} of the blocks.",
        ),
        _aligned(rows),
        (
            "Pairs",
            "Not all: seeds of a size in a ring; adjacent sizes, the smallest with every other, "
            "and the nearest size of the architecture before (within a factor of "
            f"{NEAR:g}) or, at any ratio, with the tokenizer before, each with the same and with "
            "the next seed; first weights with last ones. So pairs grow with the number of models. "
            "The smaller one is a.",
        ),
        (
            "Dictionaries",
            f"TopK with F = {middle[0]} d and L0 = {middle[1]:g} d, the middle one of equal "
            f"ratios, {study.tokens_per_latent} rows per latent. The two sides always have "
            "dictionaries of two seeds, if there are two, so that the ceiling of one model is one "
            "for all pairs.",
        ),
        (
            "Crosscoders",
            "BatchTopK on the training rows above, with the latents and L0 of both dictionaries "
            f"together, {study.tokens_per_latent} rows per latent (rows come again), sides scaled "
            "to one total variance.",
        ),
        (
            "Intervals",
            "Of a pair: 95 %, each of at most 20 blocks of held-out documents left out in turn, "
            "with partners held. Of verdicts: each model left out in turn with all of its pairs, "
            "as pairs with a common model are alike. Overfitted models carry no verdict.",
        ),
        (
            "Not measured",
            "Whether a latent of a crosscoder is exclusive is not claimed where widths differ: "
            "latent scaling looks for a direction of one side in the other.",
        ),
    ]


def _aligned(rows: Sequence[Row]) -> tuple[str, str]:
    if not by_spans(rows):
        return "Aligned", "Row by row: all models have one tokenizer, or one cut of the pictures."
    return (
        "Aligned",
        "By spans of text, the same for all pairs: between places where every tokenizer of the "
        f"family ends a token, of at most {MOST_TOKENS} tokens of each. A latent is the maximum "
        "over a span's tokens, a row that of its last token, and the current token is all tokens "
        f"of the span. {alignment(rows)} Documents are those that all tokenizers have; one that "
        "does not encode to its own tokens again, or decodes to other text, is left out.",
    )


def _places(rows: Sequence[Row]) -> str:
    if by_spans(rows):
        return "The same documents for both, as far as each tokenizer's tokens go"
    return "The same items and positions for both"
