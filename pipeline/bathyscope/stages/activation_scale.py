"""How large an activation of a latent is by and large: the unit of histograms and of night sums."""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.runs.run import DICTIONARIES, SHARED, Run
from bathyscope.stages.masks import kept
from bathyscope.values import TRAIN


def squared_deviation(config: Config, run: Run) -> float:
    """The mean squared deviation of a column of the hook point, on training rows.

    A dictionary of another run tells that of its own training rows, so that all runs that read it
    count in the same units.
    """
    facts = run.manifest(f"{DICTIONARIES}/{config.dictionary.name}").facts
    if SHARED in facts:
        return float(facts["scales"][config.hook]) ** 2
    return run.activations[config.hook].moments(TRAIN, kept).mean_squared_deviation


def activation_scale(config: Config, run: Run) -> float:
    """What each latent has where the k active ones of a row share its squared deviation."""
    facts = run.manifest(f"{DICTIONARIES}/{config.dictionary.name}").facts
    width = run.activations[config.hook].width
    return float((squared_deviation(config, run) * width / facts["k"]) ** 0.5)
