"""Metrics: one number per pair from a model's logits, which nodes are said to change.

    logit_difference  l[answer] - l[wrong]            at the last position of the clean prompt
    log_probability   log p(answer), nats             there
    kl                Σ p_clean log(p_clean / p), nats, there; 0 for the clean prompt

Any function of logits [pairs, positions, vocabulary] that returns [pairs] numbers is one too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bathyscope.attribution.nodes.pairs import Pairs
from bathyscope.errors import ConfigError, NonFiniteError

Metric = Callable[[Tensor], Tensor]
"""Logits [pairs, positions, vocabulary] -> [pairs], with gradients."""
NAMES = ("logit_difference", "log_probability", "kl")


def make_metric(name: str, pairs: Pairs, clean_logits: Tensor) -> Metric:
    """The metric of that name for these pairs.

    `clean_logits` [pairs, positions, vocabulary] are what `kl` compares with. Raises ConfigError
    for an unknown name, and for pairs without the answers that a metric needs.
    """
    if name not in NAMES:
        raise ConfigError(f"metric is {name!r}. Choose one of {', '.join(NAMES)}, or a function.")
    # A model that is spread over devices has its logits on the last one.
    last = pairs.last.to(clean_logits.device)
    rows = torch.arange(len(last), device=last.device)

    def at_last(logits: Tensor) -> Tensor:
        return logits[rows, last].to(wide(logits))

    if name == "kl":
        log_p = torch.log_softmax(at_last(clean_logits).detach(), -1)
        return lambda logits: _kl(log_p, torch.log_softmax(at_last(logits), -1))
    answers = _needed(name, "answers", pairs.answers).to(last.device)
    if name == "log_probability":
        return lambda logits: torch.log_softmax(at_last(logits), -1)[rows, answers]
    wrong = _needed(name, "wrong", pairs.wrong).to(last.device)
    return lambda logits: at_last(logits)[rows, answers] - at_last(logits)[rows, wrong]


def wide(tensor: Tensor) -> torch.dtype:
    """float64 for float64, else float32: what scores and metrics are kept in."""
    return torch.promote_types(tensor.dtype, torch.float32)


def evaluated(metric: Metric, logits: Tensor, pairs: int) -> Tensor:
    """The metric of a batch that holds all pairs one or more times, [groups, pairs] in at least
    float32.

    A function sees the pairs in their order, one group at a time. Raises ConfigError where it
    returns anything but one number per pair.
    """
    groups = [metric(part) for part in logits.split(pairs)]
    for value in groups[:1]:
        if not isinstance(value, Tensor) or value.shape != (pairs,):
            raise ConfigError(
                f"The metric returned {_shown(value)} for logits {list(logits[:pairs].shape)}; "
                f"wanted one number per pair, a tensor [{pairs}]. Choose a position and a token, "
                "or take a mean over the others."
            )
    stacked = torch.stack(groups)
    return stacked.to(wide(stacked))


def require_finite(what: str, values: Tensor) -> Tensor:
    """The values, if all are finite. Raises NonFiniteError that says where they are not."""
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        first = [int(i) for i in (~finite).nonzero()[0]]
        raise NonFiniteError(
            f"{what} holds {int((~finite).sum())} numbers of {finite.numel()} that are not finite, "
            f"the first at {first}. Look at the model's weights and dtype with these prompts."
        )
    return values


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _needed(name: str, what: str, tokens: Tensor | None) -> Tensor:
    if tokens is None:
        raise ConfigError(f"The metric {name} needs `{what}` of the pairs, which are not given.")
    return tokens


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return type(value).__name__
