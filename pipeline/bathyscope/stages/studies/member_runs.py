"""The run of each member: the configuration with which its activations and dictionaries are made.

All studies of one folder share them: a harvest serves many dictionaries, and those many studies.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from bathyscope.config import Config, DictionaryConfig, TrainConfig
from bathyscope.stages.inputs import is_of_images
from bathyscope.stages.model import describe_model, num_blocks
from bathyscope.stages.studies.family import corpus_run, sequence_length
from bathyscope.stages.studies.member import Checkpoint, Member

MODELS = "models"


class Size(NamedTuple):
    """A dictionary by its size."""

    num_latents: int
    k: int
    seed: int

    @property
    def name(self) -> str:
        """Its folder in the run of the member."""
        return f"topk-{self.num_latents}-k{self.k}-seed{self.seed}"


def run_of(config: Config, member: Member) -> Config:
    """The configuration of a member's own run, beneath that of the study."""
    study = config.study
    own = replace(
        config,
        url=f"{config.url.rstrip('/')}/{MODELS}/{member.name}",
        model=member.model,
        data=replace(
            config.data,
            run=corpus_run(config, member),
            train_tokens=study.train_tokens,
            held_out_tokens=study.held_out_tokens,
            sequence_length=sequence_length(config),
        ),
        sweep=replace(config.sweep, name="study", grid={}),
        # Hundreds of small trainings: their curves are in their folders.
        logging=replace(config.logging, kind="none"),
    )
    return replace(own, hooks=replace(own.hooks, points=[_hook(own, member)]))


def at_checkpoint(config: Config, member: Member, checkpoint: Checkpoint) -> Config:
    """The same with the weights of a checkpoint."""
    return replace(run_of(config, member), model=checkpoint.model)


def with_dictionary(config: Config, size: Size) -> Config:
    """The configuration of one dictionary of a member: TopK."""
    dictionary = DictionaryConfig(
        name=size.name, num_latents=size.num_latents, k=size.k, activation="topk"
    )
    train = training_of(config, size.num_latents, size.seed)
    return replace(config, dictionary=dictionary, train=train)


def training_of(config: Config, num_latents: int, seed: int) -> TrainConfig:
    """How the dictionaries of studies are trained: with rows in proportion to their latents."""
    study = config.study
    return replace(
        config.train,
        tokens=max(study.tokens_per_latent * num_latents, study.batch_rows),
        batch_rows=study.batch_rows,
        lr=study.lr,
        seed=seed,
        checkpoint_steps=0,
        calibration_rows=0,
    )


def width_of(config: Config) -> int:
    """d of a member's hook point; `config` is that of its run."""
    return describe_model(config).shape.widths[0]


def _hook(config: Config, member: Member) -> str:
    """Where a member is looked into: after the share of its blocks that the study names."""
    if member.hook is not None:
        return member.hook
    blocks = num_blocks(config)
    # Up to half of a block is rounded up, so that two of three and three of five agree in depth.
    return f"resid_post.{min(max(math.floor(config.study.depth * blocks + 0.5), 1), blocks) - 1}"


def rows_are_tokens(config: Config) -> bool:
    """Whether members read text."""
    return not is_of_images(config)
