"""A family of models, and what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bathyscope.config.option import not_negative, option, positive


@dataclass
class FamilyConfig:
    """The models that a study compares: those of a ladder, or any that are listed.

    A listed model has a name and what `model` takes: path, or repo and revision, or factory,
    arguments and weights. It may have architecture, seed, tokens, hook, and checkpoints: a list,
    each with a name, its training tokens, and a path or a revision; or steps, tokens_per_step, and
    a path or revision that holds {step}.
    """

    kind: str = option("ladder", "ladder, or members: models that are listed")
    run: str | None = option(None, "run of the ladder (kind ladder)")
    models: list[str] = option([], "names or patterns such as llama-*; none takes all")
    checkpoints: bool = option(True, "also read checkpoints along the training, where there are")
    most_checkpoints: int = not_negative(
        0, "checkpoints of a model at most, at equal ratios of tokens; 0 takes all there are"
    )
    members: list[dict[str, Any]] = option(
        [],
        "models, each with a name, a path, repo or factory, and more (kind members)",
    )


@dataclass
class StudyConfig:
    """A question that is asked of a family of models."""

    name: str = option(
        "",
        "which of the studies: a choice of the group study",
    )
    train_tokens: int = positive(262_144, "training tokens of each model that are harvested")
    held_out_tokens: int = positive(32_768, "held-out tokens of each model")
    depth: float = positive(0.5, "share of the blocks before the hook point, equal for all models")
    random_models: bool = option(True, "also study models without training, as a control")
    expansions: list[int] = option([2, 4, 8], "latents per dimension, where F / d is held equal")
    k_shares: list[float] = option([0.0625, 0.125, 0.25], "L0 / d of these; k is at least 2")
    widths: list[int] = option([128, 256, 512], "latents, where F is held equal")
    ks: list[int] = option([4, 8, 16], "L0 of these")
    seeds: list[int] = option([0, 1], "initial weights of the dictionaries")
    transcoder_expansion: int = positive(8, "latents per dimension of the transcoder of each block")
    transcoder_k: int = positive(16, "L0 of these")
    tokens_per_latent: int = positive(400, "training rows of a dictionary for each of its latents")
    batch_rows: int = positive(512, "rows of a step of a dictionary")
    lr: float = positive(3e-3, "peak learning rate of the dictionaries")
    splice_tokens: int = positive(16_384, "held-out tokens that go through changed models")
    calibration_items: int = positive(128, "training items that pruning and block distances read")
    shares: list[float] = option(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], "of prunable weights that are removed"
    )
    bits: list[int] = option([8, 6, 5, 4, 3, 2], "to which weights are rounded")
    budget_nats: float = positive(0.05, "by which a loss may rise for what counts as removable")
    neighbours: int = positive(16, "latents that fire most surely with a latent, kept as its edges")
    false_edges: float = positive(0.05, "share of edges of a graph of latents that may be chance")
    null_graphs: int = positive(20, "graphs of each null model")
    start_tokens: int = positive(
        102_400, "training rows that a dictionary sees from each start (second_model)"
    )
    map_tokens: list[int] = option(
        [1024, 4096, 16384], "training rows on which maps between two models are fitted"
    )
    probe_tokens: int = positive(32_768, "training tokens at most that probes are fitted to")
    contrast_pairs: int = positive(96, "pairs of prompts that components are patched between")
    prompts: int = positive(12, "held-out prompts of attribution graphs")
    prompt_tokens: int = positive(24, "tokens of a prompt that is patched or made into a graph")
    resamples: int = positive(1000, "bootstrap resamples")
    seed: int = not_negative(0, "of resamples, samples and random controls")
