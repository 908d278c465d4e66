"""Metrics by hand, and functions that return the wrong thing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bathyscope.attribution.nodes import Module, Pairs, attribution_patching, contrast
from bathyscope.attribution.nodes.metrics import evaluated, make_metric
from bathyscope.errors import ConfigError

PAIRS = Pairs.of_tokens([[1, 2], [1, 2]], [[3, 2], [4, 2]], answers=[0, 1], wrong=[1, 0])


def logits_with(last: list[list[float]]) -> Tensor:
    logits = torch.full((2, 2, 2), 100.0)
    logits[:, 1] = torch.tensor(last)
    return logits


def test_named_metrics_by_hand() -> None:
    logits = logits_with([[math.log(3), 0.0], [0.0, 0.0]])
    difference = make_metric("logit_difference", PAIRS, logits)(logits)
    torch.testing.assert_close(difference, torch.tensor([math.log(3), 0.0]))
    probability = make_metric("log_probability", PAIRS, logits)(logits)
    torch.testing.assert_close(probability, torch.tensor([math.log(0.75), math.log(0.5)]))
    kl = make_metric("kl", PAIRS, logits)
    assert kl(logits).tolist() == [0.0, 0.0]
    even = logits_with([[0.0, 0.0], [0.0, 0.0]])
    wanted = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    torch.testing.assert_close(kl(even), torch.tensor([wanted, 0.0]))


def test_a_function_sees_pairs_in_their_order() -> None:
    seen = []

    def metric(logits: Tensor) -> Tensor:
        seen.append(logits[:, 0, 0].tolist())
        return logits[:, 0, 0]

    logits = torch.arange(4.0).view(4, 1, 1)
    assert evaluated(metric, logits, 2).tolist() == [[0, 1], [2, 3]]
    assert seen == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda logits: logits.mean(), r"a tensor \[\]"),
        (lambda logits: logits[:, :, 0], r"a tensor \[3, 8\]"),
        (lambda logits: 1.0, "float"),
    ],
)
def test_a_metric_that_gives_no_number_per_pair_is_refused(
    function: Any, got: str, model_of: Any, pairs: Pairs
) -> None:
    with pytest.raises(ConfigError, match=rf"returned {got} .*wanted one number per pair"):
        contrast(model_of("llama"), pairs, function, [Module(place="mlp_out.0")])


def test_unknown_names_and_missing_answers_are_refused(model_of: Any, pairs: Pairs) -> None:
    with pytest.raises(ConfigError, match="Choose one of logit_difference"):
        contrast(model_of("llama"), pairs, "accuracy", [])
    bare = Pairs.of_tokens([[3, 4]], [[3, 5]])
    with pytest.raises(ConfigError, match="needs `answers`"):
        contrast(model_of("llama"), bare, "log_probability", [])


def test_kl_is_refused_where_its_gradient_vanishes(model_of: Any, pairs: Pairs) -> None:
    problem = contrast(model_of("llama"), pairs, "kl", [Module(place="mlp_out.0")])
    with pytest.raises(ConfigError, match="every score would be 0"):
        attribution_patching(problem)
