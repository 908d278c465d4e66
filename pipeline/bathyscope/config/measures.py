"""How a dictionary is measured and described."""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.config.option import not_negative, positive


@dataclass
class EvaluateConfig:
    """How the dictionary is measured."""

    splice_tokens: int = not_negative(8_500, "held-out targets of the spliced model; 0 takes all")
    train_splice_tokens: int = not_negative(
        2_000, "training targets of the spliced model, to compare"
    )
    batch_items: int = positive(2, "sequences of a spliced forward; bounds the memory of logits")
    control_components: int = positive(32, "components of the PCA control")
    resamples: int = positive(2000, "bootstrap resamples over documents")
    seed: int = not_negative(0, "bootstrap and random dictionary")


@dataclass
class DescribeConfig:
    """What is kept about each latent."""

    top_examples: int = positive(12, "examples with the largest activation")
    sampled_examples: int = positive(64, "firings sampled uniformly, for the quantile bands")
    bands: int = positive(4, "quantile bands")
    examples_per_band: int = not_negative(3, "examples shown of each band")
    promoted_tokens: int = positive(10, "promoted and suppressed tokens")
    window_before: int = not_negative(24, "tokens shown before an example")
    window_after: int = not_negative(8, "tokens shown after it")
    seed: int = not_negative(0, "which firings are sampled")
