"""Promoted tokens of a run's dictionary: reads only the unembedding and the final norm's gain."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.features.logits import PromotedTokens as Promoted
from bathyscope.features.logits import promoted_tokens
from bathyscope.models.head import read_head
from bathyscope.runs.run import Run
from bathyscope.stages.inputs import model_folder

logger = logging.getLogger(__name__)


def promoted(config: Config, run: Run) -> Promoted | None:
    """The tokens that each decoder row raises and lowers most.

    None, said once, where decoder rows do not write to the residual stream: another width, or a
    model whose unembedding is unknown.
    """
    dictionary = run.dictionaries[config.dictionary.name]
    head = read_head(model_folder(config))
    writes = isinstance(dictionary, Dictionary) and len(dictionary.outputs) == 1
    if not writes or head is None or head.unembedding.shape[1] != dictionary.d_out:
        logger.warning(
            "promoted tokens are left out: a %s of %s does not write to the residual stream of a "
            "model whose unembedding is known",
            dictionary.kind,
            ", ".join(config.outputs),
        )
        return None
    assert isinstance(dictionary, Dictionary)
    return promoted_tokens(
        _float(dictionary.W_dec),
        head.unembedding,
        norm_gain=head.norm_gain,
        num_tokens=config.describe.promoted_tokens,
    )


def _float(weights: Tensor) -> Tensor:
    return weights.detach().to(torch.float32)
