"""A ladder of small models."""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.config.option import not_negative, option, positive


@dataclass
class LadderConfig:
    """A ladder: small decoders of several families and sizes, all trained alike."""

    families: list[str] = option([], "gpt2, llama")
    rungs: list[dict[str, int]] = option(
        [], "sizes, each with parameters (embeddings included), width, layers and heads"
    )
    seeds: list[int] = option([0, 1], "initial weights; the order of the data is always the same")
    vocabulary: int = option(1024, "tokens of the byte-level BPE that is trained for the ladder")
    tokens: int = positive(4_000_000, "training tokens that every model sees, or at most may see")
    tokens_per_parameter: float = not_negative(
        0.0, "each model sees so many for each parameter, embeddings included; 0: ladder.tokens"
    )
    most_epochs: int = positive(1, "passes over the training text that this may take")
    batch_items: int = positive(8, "sequences of a step")
    dtype: str = option("float32", "float32, or bfloat16 for the products; weights are float32")
    lr: float = positive(4e-3, "peak learning rate of AdamW for a width of 64")
    lr_power: float = not_negative(0.5, "other widths have lr * (64 / width)^lr_power")
    warmup_share: float = not_negative(0.02, "share of the steps with a growing learning rate")
    decay_share: float = not_negative(0.3, "share of the steps, at the end, with a falling rate")
    weight_decay: float = not_negative(0.1, "of matrices; gains and biases have none")
    clip_norm: float = not_negative(1.0, "gradients are scaled down to this norm; 0 never does")
    evaluations: int = positive(
        12, "measurements of the held-out loss at equal ratios, and as many at equal distances"
    )
    watched_tokens: int = positive(32_768, "held-out tokens of these; the last one takes all")
    patience: int = not_negative(
        5, "measurements without a better held-out loss after which a model is done; 0: never"
    )
    checkpoints: int = positive(8, "checkpoints at equal ratios of steps, beside the first weights")
    state_steps: int = positive(
        200, "steps between two states from which a stopped training goes on"
    )
    tokenizer_chars: int = positive(
        20_000_000, "characters of training text that the BPE is made of"
    )
