"""Ablated circuits by hand; the whole circuit is the model, and none is nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bathyscope.attribution.circuits import (
    Ablated,
    Circuit,
    faithfulness_curve,
    feature_nodes,
)
from bathyscope.errors import ConfigError


def circuit_of(*keys: list[int]) -> Circuit:
    return Circuit([torch.tensor(k, dtype=torch.int64) for k in keys])


@pytest.mark.parametrize(
    ("ablation", "kept", "wanted"),
    [
        # All is 0.
        ("zero", ([], []), 0.0),
        # a = (1, 0), and b_0 = a_0 is not in the circuit: m = a_0.
        ("zero", ([0], []), 1.0),
        # a = (1, 0), b_0 = 1 as it is after the ablation: m = 2.
        ("zero", ([0], [0]), 2.0),
        # a = (1, 2), b_0 = 5: m = 6, the model.
        ("zero", ([0, 1], [0]), 6.0),
        # One pair and position: the mean is the clean value.
        ("mean", ([], []), 6.0),
        # a = (3, 1), b = (5, 3) of the corrupted prompt: m = 8.
        ("resample", ([], []), 8.0),
        # a = (1, 1), b_0 = a_0 + 2 a_1 = 3: m = 4.
        ("resample", ([0], [0]), 4.0),
        # a = (1, 2), and b of the corrupted prompt: m = 6 by chance.
        ("resample", ([0, 1], []), 6.0),
    ],
)
def test_ablated_metrics_by_hand(
    chain: Any, metric: Any, ablation: Any, kept: Any, wanted: float
) -> None:
    nodes = feature_nodes(*chain[:2], metric, chain[2])
    found = Ablated(nodes, ablation=ablation).metric(circuit_of(*kept))
    assert found.tolist() == pytest.approx([wanted])


def test_errors_may_be_nodes_kept_or_removed(chain: Any, metric: Any) -> None:
    model, pairs, dictionaries = chain
    # Negative coordinates are no latents: they are the error.
    pairs.clean[0, 0, 0] = -1.0
    nodes = feature_nodes(model, pairs, metric, dictionaries)
    everything = [[0, 1], [0, 1]]
    with_errors = [[0, 1, 2], [0, 1, 2]]
    # a = (-1, 2), b = (3, 6): m = 2; without errors a = (0, 2), b_0 = 4: m = 4.
    for errors, kept, wanted in (
        ("nodes", with_errors, 2.0), ("nodes", everything, 4.0), ("keep", everything, 2.0),
        ("remove", with_errors, 4.0),
    ):  # fmt: skip
        ablated = Ablated(nodes, ablation="zero", errors=errors)  # type: ignore[arg-type]
        assert float(ablated.metric(circuit_of(*kept))) == pytest.approx(wanted), errors


def test_a_curve_by_hand(chain: Any, metric: Any) -> None:
    nodes = feature_nodes(*chain[:2], metric, chain[2])
    curve = faithfulness_curve(nodes, ablation="resample", sizes=(0.34, 1.0))
    # Of six nodes the two best are a_0 and a_1: m = 6, so f = (6 - 8) / (6 - 8).
    assert curve.counts == (2, 6)
    assert (curve.full, curve.empty) == (6.0, 8.0)
    assert curve.faithfulness == pytest.approx((1.0, 1.0))
    # The others are b and errors: a = (3, 1), b_0 = 5, m = 8.
    assert curve.completeness == pytest.approx((0.0, 0.0))
    assert curve.cpr == pytest.approx(0.66)
    assert curve.cmd == pytest.approx(0.0)


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize("by_position", [True, False])
def test_all_nodes_are_the_model_and_none_is_nothing(
    llama: Any, token_pairs: Any, dictionaries: Any, ablation: Any, by_position: bool
) -> None:
    nodes = feature_nodes(
        llama, token_pairs, "logit_difference", dictionaries, method="atp", by_position=by_position
    )
    ablated = Ablated(nodes, ablation=ablation)
    whole = ablated.metric(nodes.top(nodes.count))
    torch.testing.assert_close(whole, nodes.contrast.clean_metric, rtol=1e-4, atol=1e-5)
    curve = faithfulness_curve(nodes, ablation=ablation, sizes=(0.1, 0.5, 1.0))
    assert curve.faithfulness[-1] == pytest.approx(1, abs=1e-3)
    assert curve.completeness[-1] == pytest.approx(0, abs=1e-9)


def test_ablating_all_by_resampling_gives_the_corrupted_stream(
    llama: Any, token_pairs: Any, dictionaries: Any
) -> None:
    nodes = feature_nodes(llama, token_pairs, "logit_difference", [dictionaries[1]], method="atp")
    empty = Ablated(nodes, ablation="resample").metric(Circuit([nodes.keys[0][:0]]))
    torch.testing.assert_close(empty, nodes.contrast.corrupted_metric, rtol=1e-4, atol=1e-5)


def test_what_ablation_does_not_change_is_refused(chain: Any, metric: Any) -> None:
    nodes = feature_nodes(*chain[:2], metric, chain[2])
    with pytest.raises(ConfigError, match="nothing that a circuit could keep"):
        faithfulness_curve(nodes, ablation="mean")
    for options, message in (
        ({"ablation": "median"}, "ablation is 'median'"), ({"errors": "drop"}, "errors is 'drop'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            Ablated(nodes, **options)  # type: ignore[arg-type]
