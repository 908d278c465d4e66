"""A study with made-up figures and awkward text, for the tests of its page."""

from __future__ import annotations

import math
from dataclasses import replace

from bathyscope.pages.series import Reference, Series
from bathyscope.pages.study_data import Fit, Plot, StudyPage, Table, Verdict

SIZES = (79_872, 344_064, 1_441_792, 5_898_240, 23_855_104)
FAMILIES = ("gpt2", "llama")
SEEDS = (0, 1)
HOSTILE = "</style><script>alert('1 & 2')</script>"
LONG = (
    "At equal width per latent and equal tokens per latent, the share of the next-token loss that "
    "a dictionary of the residual stream fails to recover grows with the number of parameters, "
    "and it does so in both architectures, at matched relative depth, for every k that was tried, "
    "once models that overfitted are left out and the loss is counted in bits per byte"
)


def loss(size: int, family: str, seed: int) -> float:
    return 0.05 + 9.0 * size**-0.3 + 0.02 * FAMILIES.index(family) + 0.006 * seed


def measured_plot() -> Plot:
    lines = [
        Series(
            f"{family}, seed {seed}",
            [(s, None if s == SIZES[3] and seed else loss(s, family, seed)) for s in SIZES],
            colour=i, marker=i, dashed=seed, markers=True,
            lows=[loss(s, family, seed) * 0.93 for s in SIZES],
            highs=[math.nan if s == SIZES[4] else loss(s, family, seed) * 1.08 for s in SIZES],
        )
        for i, family in enumerate(FAMILIES)
        for seed in SEEDS
    ]  # fmt: skip
    grid = [10.0 ** (4.8 + 0.1 * i) for i in range(28)]
    fit = [(n, 0.05 + 9.0 * n**-0.3) for n in grid]
    curve = Series(
        "fit to both", fit, colour=3, dashed=3,
        lows=[0.95 * v for _, v in fit], highs=[1.06 * v for _, v in fit],
    )  # fmt: skip
    return Plot(
        "ΔCE of the spliced model against parameters", "parameters without embeddings",
        "ΔCE, nats per token", [*lines, curve],
        note="Bars and band: 95 % bootstrap intervals over documents.",
        references=[
            Reference("PCA with as many directions, at the smallest model", 0.41),
            Reference("random dictionary", None),
            Reference("largest model that did not overfit", SIZES[3], axis="x"),
        ],
    )  # fmt: skip


def log_plot() -> Plot:
    return Plot(
        "Interference", "width", "mean squared overlap",
        [
            Series("trained <b>", [(64, 0.03), (128, 0.016), (256, 0.0), (512, 3.9e-3)],
                   markers=True, lows=[0.02, 0.014, 0.0, -1e-3], highs=[0.04, 0.018, 0.0, 9e-3]),
            Series("random", [(64, 1 / 64), (512, 1 / 512)], colour=1, marker=1, dashed=1,
                   markers=True),
            Series("one only", [(256, 0.01)], colour=2),
        ],
        log_y=True,
    )  # fmt: skip


def verdicts() -> list[Verdict]:
    first = Verdict(
        LONG, "yes", 0.1234, 0.0876, 0.1592, "nats per tenfold parameters",
        "PCA 0.31, random dictionary 0.92, raw neurons 0.55, random-weight model 0.02.",
        "5 sizes of one corpus; the largest saw 4 tokens per parameter.",
        "An interval that holds zero once the two largest are trained on 20 tokens per parameter.",
    )  # fmt: skip
    return [
        first,
        replace(
            first, claim="Larger models have more dead latents.", answer="not shown", value=-0.021
        ),
        replace(first, claim=f"Names are safe: {HOSTILE}", answer="no", low=None),
        replace(
            first, claim="The CNN family follows the same law.", answer="not measured", value=None,
            controls="", doubt="", would_change="A run on the CNN family.",
        ),
    ]  # fmt: skip


def family() -> list[dict[str, object]]:
    return [
        {
            "name": f"{family}-{size}-seed{seed}", "architecture": family, "parameters": size,
            "embedding_parameters": size // 3, "tokens": 4_000_000,
            "tokens_per_parameter": 4e6 / size, "seed": seed,
            "held_out_loss": None if size == SIZES[2] and seed else 3.4567,
            "overfitted": size == SIZES[4],
        }
        for family in FAMILIES for size in SIZES for seed in SEEDS
    ]  # fmt: skip


def study() -> StudyPage:
    columns = (
        ("name", "dictionary", "text"), ("latents", "latents", "number"),
        ("fvu", "FVU, held out", "interval"), ("train", "FVU, train", "number"),
        ("alive", "alive latents", "percent"), ("stable", "stable across seeds", "percent"),
        ("ce", "ΔCE, nats per token", "interval"), ("bits", "ΔCE, bits per byte", "interval"),
        ("pca", "PCA", "number"), ("random", "random", "number"), ("neurons", "neurons", "number"),
    )  # fmt: skip
    rows = [
        {
            "name": f"{family} {size:,}", "latents": 4096, "fvu": (0.2141, 0.2079, 0.2203),
            "train": 0.2013, "alive": 0.9871, "stable": None if i else 0.3142,
            "ce": (0.112, 0.097, None), "bits": (0.04, 0.05), "pca": 0.31, "random": 0.92,
            "neurons": math.nan,
        }
        for family in FAMILIES for i, size in enumerate(SIZES)
    ]  # fmt: skip
    return StudyPage(
        "dictionary_scaling", "Do dictionaries of larger models explain less?",
        "Does a dictionary of fixed width per model dimension recover less of a larger model?",
        "Yes for both architectures up to 5.9 million parameters. Above that it is not shown.",
        verdicts(), [measured_plot(), log_plot(), replace(log_plot(), title="Empty", series=())],
        [
            Fit("Loss left by the dictionary", "L(n, k) = E + A n^(-α) + B k^(-β)",
                {"E": (0.05, 0.031, 0.068), "A": (9.0, 7.2, 11.4), "α": (0.3, 0.27, 0.33),
                 "β": (None, None, None)},
                16, 2, "Below 80,000 parameters residuals share one sign; k < 8 was left out."),
        ],
        [Table("Dictionaries at relative depth 1/2", columns, rows)],
        family(),
        [("corpus", "TinyStories, 4.0 million tokens in sequences of 128."),
         ("intervals", "95 %, 1,000 bootstrap draws over documents.")],
        [(f"gpt2-<{HOSTILE}>", "NonFiniteError: activations of block 3 held NaN.")],
        ["Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093"],
        {"FVU": "Share of variance unexplained, pooled and centred, on held-out items.",
         "ΔCE": "Cross-entropy of the spliced model less that of the model, nats per token."},
    )  # fmt: skip
