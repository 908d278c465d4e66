"""The model with activations put in place, as evaluation and fine-tuning use it."""

from __future__ import annotations

import torch

from bathyscope.config import Config
from bathyscope.evaluation.splice import Forward, Restart, Splice
from bathyscope.stages.model import describe_model, load_tail, load_whole


def forward_of(config: Config) -> tuple[Forward, torch.device]:
    """How logits come about from activations, and where activations go in.

    Behind a block only what comes after it is loaded. Raises `ModelError` and `HookPointError` for
    a model or hook point where that cannot be.
    """
    facts = describe_model(config)
    hook = facts.hook(config.hook)
    last = facts.shape.num_layers - 1
    if hook.name.startswith("resid_post.") and hook.layer is not None and hook.layer < last:
        tail = load_tail(config, hook.layer + 1)
        return Restart(tail.model), tail.input_device
    whole = load_whole(config)
    return Splice(whole.model, hook), whole.input_device
