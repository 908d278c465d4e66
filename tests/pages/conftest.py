"""One small report with awkward text, shared by the tests of the pages."""

import math
from collections.abc import Iterator

import pytest

from bathyscope.pages.data import (
    Command,
    ControlRow,
    CorpusFacts,
    Definition,
    Example,
    Headline,
    Histogram,
    LatentPage,
    ReportData,
    StageTiming,
    TrainingCurves,
)

NUM_LATENTS = 130


@pytest.fixture
def report() -> ReportData:
    return ReportData(
        title="Run <1> & more",
        run_url="s3://bucket/run?a=1&b=<2>",
        model="tiny",
        hook_point="resid_post.1",
        dictionary_kind="TopK",
        num_latents=NUM_LATENTS,
        k=8,
        corpus=CorpusFacts("docs", 12, 9000, 1000, 128, "No BOS."),
        created="2026-01-02",
        versions={"bathyscope": "0.1.0"},
        headlines=(
            Headline("FVU", 0.1483, interval=(0.146, 0.151), train_value=0.1391),
            Headline("ΔCE", math.nan, "nats", interval=(None, 1.0)),
        ),
        controls=(
            ControlRow("dictionary", {"FVU": 0.1483}),
            ControlRow("PCA, 8 components", {"FVU": 0.4, "KL": None}),
        ),
        curves=TrainingCurves([0, 10], {"loss": [1.0, 0.5], "auxiliary": [None, None]}),
        densities=Histogram([-4.0, -3.0, -2.0], [100, 20]),
        num_never=10,
        density_tokens=9000,
        timings=(StageTiming("train", 61.0, 2**30), StageTiming("describe", None)),
        protocol=(Definition("FVU", "Fraction of variance unexplained."),),
        next_commands=(Command("bathyscope verify <url>", "Check it"),),
    )


def _page(latent: int) -> LatentPage:
    if latent % 13 == 7:
        return LatentPage(latent, 0.0)
    tokens = ["</script>", "<b>x</b>", "\n", f" peak{latent}", "\x00", " after"]
    examples = [
        Example(band, 1, 9, "doc & <name>", tokens, [0, 0.5, 0, 2.0, 0, math.nan], 3, "held out")
        for band in ("top", "top", "quantile 1")
    ]
    histogram = Histogram([0.0, 1.0, 2.0], [9, 1])
    effects = [(f" up{latent}", 1.0)], [(f" down{latent}", -1.0)]
    # Densities fall with the index, so that sorting by density is not the order of the index.
    return LatentPage(latent, 0.5 / (1 + latent), 0.7, 2.0, histogram, *effects, examples)


@pytest.fixture
def pages() -> Iterator[LatentPage]:
    return (_page(latent) for latent in range(NUM_LATENTS))
