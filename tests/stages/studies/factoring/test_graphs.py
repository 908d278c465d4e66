"""Graphs of planted firings: what is beyond each null model, and how stable it is."""

from __future__ import annotations

import numpy as np
import pytest

from bathyscope.stages.studies.factoring.graphs import (
    across,
    cofiring_graph,
    described,
    graph_beyond_token,
)
from bathyscope.stages.studies.factoring.nulls import MARGINS, TOKENS, Settings
from bathyscope.studies.firings import Firings
from bathyscope.studies.graph_modularity import graph_of

SETTINGS = Settings(neighbours=8, rate=0.05, null_graphs=4, seed=0)
SIZE, ROWS = 10, 5000


def quiet(text: str) -> None:
    """Says nothing."""


def planted(seed: int, *, of_tokens: bool) -> tuple[Firings, np.ndarray]:
    """Six modules of ten latents: rows fire four of one, which the token names, or does not."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(6, size=ROWS)
    module = tokens if of_tokens else draw.integers(6, size=ROWS)
    own = np.argsort(draw.random((ROWS, SIZE)), axis=1)[:, :4] + SIZE * module[:, None]
    away = (module + draw.integers(1, 6, size=ROWS)) % 6
    other = SIZE * away + draw.integers(SIZE, size=ROWS)
    return Firings(np.column_stack([own, other]), np.arange(ROWS) * 60 // ROWS, 6 * SIZE), tokens


def test_modules_beyond_the_token() -> None:
    firings, tokens = planted(0, of_tokens=False)
    found = cofiring_graph(firings, SETTINGS, tokens=tokens, shuffles=(MARGINS, TOKENS), say=quiet)
    figures = found.figures
    assert (figures["rows"], figures["clusters"], figures["nodes"]) == (ROWS, 60, 60)
    assert figures["communities"] == 6
    assert figures["community_sizes"] == [10] * 6
    assert figures["effective_communities"] == pytest.approx(6)
    assert figures["q_low"] <= figures["q"] <= figures["q_high"]
    # Six modules without an edge between them: 1 - 1/6.
    assert figures["q"] == pytest.approx(5 / 6, abs=0.02)
    assert figures["degrees_less"] > 0.3
    assert figures["degrees_less_low"] < figures["degrees_less"] < figures["degrees_less_high"]
    # Trades take all of it away, and the rule finds nothing there.
    for name in (MARGINS, TOKENS):
        assert figures[f"{name}_edges_found"] < 1
        assert figures[f"{name}_ari"] < 0.2
    assert figures["halves_ari"] == pytest.approx(1)
    assert figures["leiden_ari"] == pytest.approx(1)
    beyond = graph_beyond_token(firings, SETTINGS, tokens)
    assert beyond["communities"] == 6
    assert beyond["degrees_less"] > 0.3
    assert beyond["rule_finds"] < 1


def test_modules_that_are_tokens() -> None:
    firings, tokens = planted(1, of_tokens=True)
    found = cofiring_graph(firings, SETTINGS, tokens=tokens, shuffles=(TOKENS,), say=quiet)
    assert found.figures["communities"] == 6
    assert found.figures["degrees_less"] > 0.3
    # Firings that know the token alone have the same modules, as clear.
    assert found.figures["tokens_ari"] > 0.95
    assert abs(found.figures["tokens_less"]) < 0.05
    assert found.figures["tokens_edges_found"] > 0.8 * found.figures["edges"]
    beyond = graph_beyond_token(firings, SETTINGS, tokens)
    assert beyond["edges"] <= 2


def test_two_dictionaries_agree_over_latents_with_a_partner() -> None:
    firings, tokens = planted(2, of_tokens=True)
    found = cofiring_graph(firings, SETTINGS, tokens=tokens, shuffles=(), say=quiet)
    order = np.random.default_rng(0).permutation(60)
    renamed = Firings(order[firings.latents], firings.clusters, 60)
    other = cofiring_graph(renamed, SETTINGS, tokens=tokens, shuffles=(), say=quiet)
    partners = order.copy()
    assert across(found, other, partners)["seeds_ari"] == pytest.approx(1)
    partners[10:] = -1
    assert across(found, other, partners)["seeds_nodes"] == 10
    assert np.isnan(across(found, other, np.full(60, -1))["seeds_ari"])


def test_firings_without_an_edge() -> None:
    draw = np.random.default_rng(3)
    latents = np.argsort(draw.random((400, 30)), axis=1)[:, :3]
    firings = Firings(latents, np.arange(400) // 100, 30)
    tokens = np.zeros(400, dtype=np.int64)
    found = cofiring_graph(firings, SETTINGS, tokens=tokens, shuffles=(MARGINS,), say=quiet)
    assert (found.figures["edges"], found.figures["communities"]) == (0, 0)
    assert np.isnan(found.figures["q"])
    assert found.figures["mean_degree"] is found.figures["largest_share"] is None
    assert "margins_q" not in found.figures
    assert graph_beyond_token(firings, SETTINGS, tokens)["edges"] == 0


def test_small_communities_are_not_counted() -> None:
    graph = graph_of(9, np.array([0, 0, 1, 3]), np.array([1, 2, 2, 4]), np.ones(4))
    found = described(graph, np.array([0, 0, 0, 1, 1, 2, 3, 4, 5]))
    assert (found["nodes"], found["communities"], found["community_sizes"]) == (5, 1, [3])
    assert found["largest_share"] == pytest.approx(3 / 5)
    assert found["mean_degree"] == pytest.approx(8 / 5)
