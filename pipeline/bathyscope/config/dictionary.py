"""The sparse dictionary, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bathyscope.config.option import not_negative, option, positive


@dataclass
class DictionaryConfig:
    """The sparse dictionary."""

    name: str = option("main", "its folder in the run; another name keeps both")
    run: str | None = option(
        None, "run whose dictionary of this name is read where it lies; null trains one"
    )
    digest: str | None = option(
        None, "digest of the weights that it must have (weights_digest of its manifest)"
    )
    kind: str = option(
        "autoencoder",
        "autoencoder, transcoder, skip_transcoder, crosscoder or cross_layer_transcoder",
    )
    activation: str = option("topk", "topk, batch_topk, jumprelu, relu or gated")
    hook: str | None = option(None, "hook point it reads; null takes the only one")
    inputs: list[str] = option([], "hook points it reads, where they are several; in their order")
    outputs: list[str] = option([], "hook points it writes, where they are others (transcoders)")
    layer: int | None = option(
        None, "block whose MLP a transcoder stands for: it reads mlp_in.L and writes mlp_out.L"
    )
    expansion: int = positive(8, "latents per input dimension, when num_latents is 0")
    num_latents: int = not_negative(0, "number of latents, of each layer of a CLT; 0: by expansion")
    k: int = positive(32, "active latents per row that are wanted, of each layer of a CLT")
    group_rows: int = positive(1024, "rows that share k * group_rows active latents (batch_topk)")
    bandwidth: float = positive(
        0.5, "band that trains thresholds, in deviations of pre-activations (jumprelu)"
    )
    prefixes: list[float] = option(
        [], "shares of the latents that reconstruct by themselves (Matryoshka), ascending to 1"
    )


@dataclass
class TrainConfig:
    """How the dictionary is trained."""

    epochs: int = positive(5, "passes over the training rows")
    tokens: int = not_negative(
        0, "training rows in all, in whole steps and as many passes as it takes; 0: by epochs"
    )
    batch_rows: int = positive(4096, "rows of a step")
    lr: float = positive(3e-3, "peak learning rate of Adam")
    warmup_share: float = not_negative(0.05, "share of the steps with a growing learning rate")
    decay_share: float = not_negative(0.3, "share of the steps, at the end, with a falling rate")
    calibration_rows: int = not_negative(
        65_536, "training rows, 5 % at most, that no step sees: thresholds are set on them"
    )
    auxk_weight: float = not_negative(1 / 32, "weight of the AuxK loss; 0 turns it off")
    resample_steps: list[int] = option(
        [], "steps after which dead latents start anew from rows with a high loss"
    )
    preact_weight: float = not_negative(
        0.0, "weight of what dead latents lack to their thresholds (jumprelu), such as 0.01"
    )
    dead_after_epochs: float = positive(
        0.5, "a latent is dead after this many epochs of training tokens without firing"
    )
    l0_weight: float = not_negative(1.0, "weight of (L0 / k - 1)^2 (jumprelu)")
    l1_weight: float = not_negative(
        0.0, "weight of the L1 penalty (relu, gated); 0 lets it follow L0"
    )
    decoder_norm: str = option("unit", "unit: decoder rows have norm 1; free: they are left alone")
    clip_norm: float = not_negative(0.0, "gradients are scaled down to this norm; 0 never does")
    processes: int = positive(1, "processes that train together, over a cluster")
    latent_parallel: int = positive(1, "how many of them split the latents; the others split rows")
    timeout_s: float = positive(600.0, "seconds after which one that does not answer is given up")
    checkpoint_steps: int = not_negative(500, "steps between two checkpoints; 0 keeps none")
    seed: int = not_negative(0, "initial weights")
    order_seed: int = not_negative(
        0, "order of rows; dictionaries of one order can share their batches"
    )
    log_every: int = positive(10, "steps between two points of the training curve")


@dataclass
class FineTuneConfig:
    """How `bathyscope fine-tune` goes on with a dictionary, its loss through the model."""

    name: str | None = option(None, "name of the result; null adds the loss, as in main_kl")
    loss: str = option(
        "kl", "kl: divergence from what the model predicts itself; ce: cross-entropy of the text"
    )
    tokens: int = positive(100_000, "training tokens; more than there are come again")
    batch_items: int = positive(8, "sequences of a step")
    lr: float = positive(1e-4, "peak learning rate of Adam; it falls to 0")
    reconstruction_share: float = option(
        0.5, "share of the reconstruction in the loss at the start; 0 leaves it to the model"
    )
    seed: int = not_negative(0, "order of sequences")


@dataclass
class SweepConfig:
    """Many dictionaries, for `bathyscope sweep`."""

    name: str = option("sweep", "its folder in the run, which holds the table")
    grid: dict[str, Any] = option(
        {}, "values of settings, {dictionary.k: [16, 32]}; or give them with commas, k=16,32"
    )
    together: int = positive(8, "dictionaries that are trained at once on the same batches")
    evaluate: bool = option(True, "measure each dictionary on held-out rows")


@dataclass
class LoggingConfig:
    """Where the scalars of a training go while it runs; `curve.parquet` has them in any case."""

    kind: str = option("tensorboard", "tensorboard, wandb (Weights & Biases) or none")
    flush_s: float = positive(10.0, "seconds after which events are on the disk (tensorboard)")
    project: str = option("bathyscope", "project of the runs (wandb)")
    entity: str | None = option(None, "user or team (wandb); null takes the default of the account")
    mode: str = option("online", "online, or offline: files that `wandb sync` sends later (wandb)")
