"""Scores of nodes by hand, and over positions and pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bathyscope.attribution.circuits import feature_nodes
from bathyscope.attribution.nodes import Latents, attribution_patching, contrast
from bathyscope.errors import ConfigError


@pytest.mark.parametrize("method", ["atp", "ig"])
def test_scores_of_the_chain_by_hand(chain: Any, metric: Any, method: Any) -> None:
    model, pairs, dictionaries = chain
    nodes = feature_nodes(model, pairs, metric, dictionaries, method=method)
    assert [site.written.name for site in nodes.sites] == ["a", "b"]
    # m = b_0 + a_0 with b_0 = a_0 + 2 a_1; a goes from (1, 2) to (3, 1), b from (5, 6) to (5, 3).
    assert [keys.tolist() for keys in nodes.keys] == [[0, 1, 2], [0, 1, 2]]
    torch.testing.assert_close(nodes.scores[0], torch.tensor([4.0, -2.0, 0.0]).double())
    torch.testing.assert_close(nodes.scores[1], torch.tensor([0.0, 0.0, 0.0]).double())
    best = nodes.describe(nodes.top(2))
    assert [(n.place, n.position, n.latent, n.score) for n in best] == [
        ("a", -1, 0, 4.0), ("a", -1, 1, -2.0)
    ]  # fmt: skip
    assert len(nodes.above(3.0)) == 1
    assert len(nodes.top(0)) == 0
    assert len(nodes.top(100)) == nodes.count == 6
    assert len(nodes.top(2).without(nodes)) == 4


def test_nodes_of_all_positions_are_sums_of_nodes_of_each(
    llama: Any, token_pairs: Any, dictionaries: Any
) -> None:
    each, together = (
        feature_nodes(
            llama, token_pairs, "logit_difference", dictionaries, method="atp", by_position=by
        )
        for by in (True, False)
    )
    for number, site in enumerate(each.sites):
        summed = torch.zeros(site.slots).double()
        summed.index_add_(0, each.keys[number] % site.slots, each.scores[number])
        torch.testing.assert_close(summed[together.keys[number]], together.scores[number])
    assert {n.position for n in each.describe(each.top(30))} <= set(range(8))


def test_scores_are_means_over_pairs(llama: Any, token_pairs: Any, dictionaries: Any) -> None:
    nodes = feature_nodes(
        llama, token_pairs, "logit_difference", dictionaries, method="atp", by_position=True
    )
    spec = Latents(dictionaries[1])
    plain = attribution_patching(contrast(llama, token_pairs, "logit_difference", [spec]))
    errors = plain.values[1].view(3, 8).double().mean(0)
    slot = nodes.sites[0].slots - 1
    is_error = nodes.keys[0] % nodes.sites[0].slots == slot
    torch.testing.assert_close(nodes.scores[0][is_error], errors)


def test_bad_dictionaries_and_methods_are_refused(
    llama: Any, token_pairs: Any, dictionaries: Any
) -> None:
    with pytest.raises(ConfigError, match=r"wanted one or more places"):
        feature_nodes(llama, token_pairs, "logit_difference", [])
    with pytest.raises(ConfigError, match=r"write .*resid_post.0.*resid_post.0"):
        feature_nodes(llama, token_pairs, "logit_difference", [dictionaries[1]] * 2)
    with pytest.raises(ConfigError, match="method is 'shapley'"):
        feature_nodes(
            llama, token_pairs, "logit_difference", dictionaries,
            method="shapley",  # type: ignore[arg-type]
        )  # fmt: skip
