"""From what a dictionary's training may start, each as weights in the scale of the target's rows.

scratch               random unit rows, as every training starts
pca                   principal directions of n rows of the target, with both signs
itself                the target's own dictionary of another seed: the most that can be hoped for
mapped                the source's dictionary through a map that was fitted on n shared rows
tied                  the same decoder, with its own rows as encoder
rotated               mapped, then turned at random in the space of the target
rotated_covariance    mapped, then turned so that the covariance of the target stays
shuffled              through a map that was fitted on rows in another order
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.stages.hook_columns import HookColumns, new_dictionary
from bathyscope.studies import transplants
from bathyscope.studies.linear_maps import LinearMap
from bathyscope.studies.rotations import covariance_rotation, random_rotation
from bathyscope.studies.transplants import Weights, tied, turned
from bathyscope.training.initial import fit_scale, initialise

SCRATCH, PCA, ITSELF = "scratch", "pca", "itself"
MAPPED, TIED, ROTATED = "mapped", "tied", "rotated"
ROTATED_COVARIANCE, SHUFFLED = "rotated_covariance", "shuffled"
STARTS = {
    SCRATCH: "from scratch",
    ITSELF: "its own dictionary of another seed",
    MAPPED: "mapped from the source",
    TIED: "mapped, encoder from the decoder",
    PCA: "principal directions",
    ROTATED_COVARIANCE: "mapped and turned, covariance kept",
    ROTATED: "mapped and turned",
    SHUFFLED: "map of shuffled rows",
}
"""In the order of the page."""


@dataclass(frozen=True)
class Start:
    """Where a training starts."""

    kind: str
    seed: int
    """Of the random weights, and of the latents that the source does not fill."""
    map_tokens: int = 0
    """Rows of the target that were needed before the first step."""
    weights: Callable[[], Weights] | None = None
    """None: as every training starts. They may be of fewer latents: the rest is as from scratch.

    Made when the training begins: all starts of a pair at once would not fit for large ones.
    """


def weights_of(dictionary: AnyDictionary) -> Weights:
    """The weights of a finished autoencoder."""
    assert isinstance(dictionary, Dictionary), "an autoencoder"
    assert dictionary.b_dec is not None, "an autoencoder"
    found = (dictionary.W_enc, dictionary.W_dec, dictionary.b_enc, dictionary.b_dec)
    return Weights(*(tensor.detach().cpu() for tensor in found))


def from_source(
    weights: Weights, maps: tuple[LinearMap, LinearMap], means: tuple[Tensor, Tensor]
) -> Weights:
    """A source's dictionary as one of the target's."""
    there, back = maps
    return transplants.mapped(weights, there.matrix, back.matrix, mean_x=means[0], mean_y=means[1])


def controls(
    mapped: Callable[[], Weights], scatter: Tensor, mean: Tensor, *, seed: int
) -> dict[str, Callable[[], Weights]]:
    """The mapped weights turned, and with the encoder that the decoder gives."""
    kept, turn = covariance_rotation(scatter, seed=seed), random_rotation(len(mean), seed=seed)
    return {
        ROTATED_COVARIANCE: lambda: turned(mapped(), kept, centre=mean),
        ROTATED: lambda: turned(mapped(), turn, centre=mean),
        TIED: lambda: tied(mapped()),
    }


def most_used(weights: Weights, used: Tensor, most: int) -> Weights:
    """At most so many latents, those of the largest Σz²; decoder rows have unit norm."""
    return weights.only(used.topk(most).indices.sort().values)


@torch.no_grad()
def dictionary_at(start: Start, config: Config, columns: HookColumns, first: Tensor) -> Dictionary:
    """The dictionary before its first step, in the scale of training.

    `first` [rows, d] are the rows of the first step, in that scale: the one factor of all latents
    is fitted to them, as from scratch.
    """
    made = new_dictionary(config, columns)
    assert isinstance(made, Dictionary), "an autoencoder"
    scales, mean = columns.scales_and_mean()
    initialise(made, x=first, y=first, mean=mean, seed=start.seed)
    if start.weights is None:
        return made
    given, scale = start.weights(), float(scales[0])
    latents = slice(0, len(given.b_enc))
    assert made.b_dec is not None, "an autoencoder"
    # x / s = W_decᵀ (z / s) + b_dec / s: matrices stay as they are.
    for own, tensor in (
        (made.W_enc[latents], given.W_enc),
        (made.W_dec[latents], given.W_dec),
        (made.b_enc[latents], given.b_enc / scale),
        (made.b_dec, given.b_dec / scale),
    ):
        own.copy_(tensor.to(own))
    fit_scale(made, x=first, y=first)
    return made
