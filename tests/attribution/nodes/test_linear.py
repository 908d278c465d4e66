"""Where the truth is known: linear models, small changes, and integrals that must add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.attribution.nodes import (
    Contrast,
    Heads,
    Keys,
    Module,
    Pairs,
    Positions,
    Queries,
    Values,
    attribution_patching,
    completeness_gap,
    contrast,
    exact_patching,
    integrated_gradients,
)
from bathyscope.attribution.nodes.bound import DenseNodes
from bathyscope.errors import HookPointError
from bathyscope.metrics.agreement import pearson
from double_decoders import DECODERS

KINDS = [
    "heads.1",
    "mlp_in.1",
    "mlp_out.0",
    "attn_out.2",
    "resid_pre.1",
    "queries.1",
    "keys.0",
    "values.2",
]


class Mixed(nn.Module):
    """Two linear maps with a mean over positions between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 6).double(), nn.Linear(6, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(hidden.cumsum(1))  # type: ignore[no-any-return]


def toy() -> Contrast:
    torch.manual_seed(1)
    x, y = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    keep = torch.ones(2, 3, dtype=torch.bool)
    pairs = Pairs(x, y, keep, torch.tensor([2, 2]))
    metric = lambda logits: logits[:, -1, 0] - logits[:, -1, 1]  # noqa: E731
    return contrast(Mixed(), pairs, metric, [Positions(place="first"), Module(place="first")])


def sets_of(name: str) -> list[Any]:
    kind, _, layer = name.partition(".")
    made = {"heads": Heads, "queries": Queries, "keys": Keys, "values": Values}
    return [made[kind](layer=int(layer))] if kind in made else [Positions(place=name)]


def test_attribution_patching_of_a_linear_model_is_exact() -> None:
    problem = toy()
    exact, found = exact_patching(problem), attribution_patching(problem)
    torch.testing.assert_close(found.flat(), exact.flat(), rtol=1e-5, atol=1e-6)
    positions, whole = exact.values
    torch.testing.assert_close(positions.view(2, 3).sum(1), whole)
    torch.testing.assert_close(whole, problem.corrupted_metric - problem.clean_metric)


def test_one_step_of_integrated_gradients_is_complete_in_a_linear_model() -> None:
    problem = toy()
    place = problem.places[0]
    scores = integrated_gradients(problem, steps=1)
    gap = completeness_gap(problem, scores, place)
    # The place is covered twice: by positions and by the module.
    total = problem.corrupted_metric - problem.clean_metric
    torch.testing.assert_close(gap, total, rtol=1e-5, atol=1e-6)


def test_a_flipped_sign_is_seen_by_correlation() -> None:
    problem = toy()
    exact, found = exact_patching(problem).flat(), attribution_patching(problem).flat()
    assert pearson(exact, found) > 0.999
    assert pearson(exact, -found) < -0.999


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("family", DECODERS)
def test_small_changes_are_linear_in_every_family(
    family: str, name: str, model_of: Callable[..., Any], pairs: Pairs
) -> None:
    model = model_of(family)
    if family == "gptj" and name.split(".")[0] in ("queries", "keys", "values"):
        with pytest.raises(HookPointError, match="was not seen"):
            contrast(model, pairs, "logit_difference", sets_of(name))
        return
    problem = contrast(model, pairs, "logit_difference", sets_of(name))
    (nodes,) = problem.nodes
    assert isinstance(nodes, DenseNodes)
    assert float(nodes.change.abs().max()) > 1e-4
    first_order = attribution_patching(problem).flat()
    # Norms compute in float32 whatever the dtype, so steps cannot be smaller.
    whole, step, real = nodes.change, 0.001, []
    for sign in (1, -1):
        nodes.change = sign * step * whole
        real.append(exact_patching(problem).flat())
    scale = float(first_order.abs().max())
    torch.testing.assert_close(
        first_order, (real[0] - real[1]) / (2 * step), rtol=1e-2, atol=1e-2 * scale
    )


@pytest.mark.parametrize("place", ["mlp_out.0", "attn_out.1", "resid_post.0"])
def test_the_completeness_error_of_midpoints_falls_as_one_over_k_squared(
    place: str, model_of: Callable[..., Any], pairs: Pairs
) -> None:
    problem = contrast(model_of("llama"), pairs, "logit_difference", [Positions(place=place)])
    gaps = []
    for steps in (8, 16, 32):
        scores = integrated_gradients(problem, steps=steps)
        gaps.append(float(completeness_gap(problem, scores, problem.places[0]).abs().max()))
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.25)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.25)


def test_steps_may_go_through_the_model_in_any_number_of_rows(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    problem = contrast(model_of("gpt2"), pairs, "log_probability", [Heads(layer=1)])
    one = integrated_gradients(problem, steps=5, rows_per_forward=1).flat()
    many = integrated_gradients(problem, steps=5, rows_per_forward=12).flat()
    torch.testing.assert_close(one, many)
    few, all_rows = (exact_patching(problem, rows_per_forward=n).flat() for n in (1, 64))
    torch.testing.assert_close(few, all_rows)


def test_integrated_gradients_equal_those_of_captum(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    attr = pytest.importorskip(
        "captum.attr",
        reason="captum, or matplotlib which it needs, is not installed",
        exc_type=ImportError,
    )
    model = model_of("llama")
    problem = contrast(model, pairs, "logit_difference", [Positions(place="mlp_out.1")])
    ours = integrated_gradients(problem, steps=16).flat()
    assert isinstance(pairs.clean, dict)
    assert isinstance(pairs.corrupted, dict)

    def forward(tokens: Tensor) -> Tensor:
        logits = model(input_ids=tokens, use_cache=False).logits
        rows = torch.arange(len(tokens)) % len(pairs)
        assert pairs.answers is not None
        assert pairs.wrong is not None
        last = logits[torch.arange(len(tokens)), pairs.last[rows]]
        picks = torch.arange(len(tokens))
        return last[picks, pairs.answers[rows]] - last[picks, pairs.wrong[rows]]  # type: ignore[no-any-return]

    method = attr.LayerIntegratedGradients(forward, model.model.layers[1].mlp)
    # What passes beside the layer belongs to captum's input, so it takes the path backwards.
    theirs = -method.attribute(
        pairs.clean["input_ids"], baselines=pairs.corrupted["input_ids"], n_steps=16,
        method="riemann_middle",
    )  # fmt: skip
    torch.testing.assert_close(ours, theirs.sum(-1).flatten(), rtol=0, atol=1e-4)
