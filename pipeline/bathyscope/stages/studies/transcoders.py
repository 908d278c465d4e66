"""The run in which each block of a member has a transcoder of its MLP: attribution graphs need it.

It lies beside the member's own, where more hook points would be another harvest.
"""

from __future__ import annotations

from dataclasses import replace

from bathyscope.config import Config, DictionaryConfig
from bathyscope.stages.model import num_blocks
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import run_of, training_of, width_of

RUNS = "transcoders"


def transcoder_run_of(config: Config, member: Member) -> Config:
    """The configuration of that run, beneath the study's: what MLPs read and write is kept."""
    own = run_of(config, member)
    blocks = range(num_blocks(own))
    points = [f"{side}.{block}" for side in ("mlp_in", "mlp_out") for block in blocks]
    return replace(
        own,
        url=f"{config.url.rstrip('/')}/{RUNS}/{member.name}",
        hooks=replace(own.hooks, points=points),
    )


def transcoders_of(config: Config) -> list[Config]:
    """The configuration of each block's transcoder; `config` is that of the run."""
    width = width_of(config)
    return [_transcoder(config, layer, width) for layer in range(num_blocks(config))]


def _transcoder(config: Config, layer: int, width: int) -> Config:
    """TopK, of the MLP of one block."""
    study = config.study
    dictionary = DictionaryConfig(
        name=f"transcoder-layer{layer}",
        kind="transcoder",
        activation="topk",
        layer=layer,
        num_latents=study.transcoder_expansion * width,
        k=study.transcoder_k,
    )
    train = training_of(config, dictionary.num_latents, study.seeds[0])
    return replace(config, dictionary=dictionary, train=train)
