"""Edges: they add up to the stream, equal exact ones for small changes, and hold no big buffer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bathyscope.attribution.nodes import (
    Pairs,
    contrast,
    edge_attribution,
    exact_edges,
)
from bathyscope.attribution.nodes.components import Component, Components
from bathyscope.attribution.nodes.edges import EdgeScores, write_changes
from bathyscope.errors import ConfigError, HookPointError
from bathyscope.metrics.agreement import pearson
from decoders import DECODERS

POST_NORM = ("gemma2", "gemma3_text")
EDGES = tuple(name for name in DECODERS if name != "gptj")


def scores_of(model: Any, pairs: Pairs, family: str = "", **options: Any) -> EdgeScores:
    heads = family not in POST_NORM
    return edge_attribution(model, pairs, "logit_difference", heads=heads, **options)


@pytest.mark.parametrize("family", EDGES)
def test_edges_into_the_logits_are_all_of_the_change_of_the_stream(
    family: str, model_of: Callable[..., Any], pairs: Pairs
) -> None:
    model = model_of(family)
    scores = scores_of(model, pairs, family)
    parts = scores.components
    changes = write_changes(scores.contrast, parts)
    total = sum(parts.write_of(changes, w) for w in parts.writers)
    assert isinstance(total, Tensor)
    torch.testing.assert_close(
        total, changes[parts.stream(parts.readers[-1])], rtol=1e-3, atol=1e-5
    )
    assert scores.values.shape == (3, len(parts.writers), len(parts.readers))
    assert float(scores.values[:, ~scores.exists].abs().max()) == 0


@pytest.mark.parametrize("family", EDGES)
def test_small_changes_equal_exact_edges_in_every_family(
    family: str, model_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts that differ at the first token, and writes that are scaled down."""
    model = model_of(family)
    pairs = Pairs.of_tokens([[5, 6, 7, 8]], [[9, 6, 7, 8]], answers=[11], wrong=[12])
    scores = scores_of(model, pairs, family)
    generator = torch.Generator().manual_seed(0)
    everything = scores.exists.nonzero()
    picks = everything[torch.randperm(len(everything), generator=generator)[:40]]
    parts = scores.components
    edges = [(parts.writers[w], parts.readers[r]) for w, r in picks.tolist()]
    first_order = scores.values[0, picks[:, 0], picks[:, 1]]
    real, step = [], 0.003
    for sign in (1, -1):

        def scaled(*arguments: Any, sign: int = sign) -> Any:
            return {p: sign * step * x for p, x in write_changes(*arguments).items()}

        monkeypatch.setattr("bathyscope.attribution.nodes.edge_patching.write_changes", scaled)
        real.append(exact_edges(scores, edges)[0])
    slope = (real[0] - real[1]) / (2 * step)
    scale = float(first_order.abs().max())
    torch.testing.assert_close(first_order, slope, rtol=2e-2, atol=2e-2 * scale)


def test_parallel_blocks_have_no_edge_from_attention_to_their_own_mlp(
    model_of: Callable[..., Any],
) -> None:
    head, mlp = Component("head", 1, 0), Component("mlp", 1)
    assert Components(model_of("llama")).exists(head, mlp)
    assert not Components(model_of("gpt_neox")).exists(head, mlp)
    assert Components(model_of("gpt_neox serial")).exists(head, mlp)
    assert not Components(model_of("llama")).exists(mlp, Component("queries", 1, 0))


def test_grouped_queries_give_a_reader_for_each_key_head(model_of: Callable[..., Any]) -> None:
    parts = Components(model_of("llama"))
    assert len(parts.writers) == 1 + 3 * (4 + 1)
    assert len(parts.readers) == 3 * (4 + 2 + 2 + 1) + 1
    names = [str(reader) for reader in parts.readers]
    assert names[:9] == [
        *(f"queries.0.{n}" for n in range(4)), "keys.0.0", "keys.0.1", "values.0.0", "values.0.1",
        "mlp.0",
    ]  # fmt: skip
    assert names[-1] == "logits"


def test_a_small_workspace_gives_the_same(model_of: Callable[..., Any], pairs: Pairs) -> None:
    model = model_of("llama")
    whole = scores_of(model, pairs)
    one_by_one = scores_of(model, pairs, workspace_bytes=1)
    torch.testing.assert_close(one_by_one.values, whole.values)


def test_the_path_of_embeddings_ends_at_the_difference_of_the_metric(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    """Without attention and MLPs the embedding has one edge, and EAP-IG is complete."""
    model = copy.deepcopy(model_of("llama"))
    for block in model.model.layers:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    last = Pairs.of_tokens([[3, 4], [3, 4]], [[3, 5], [3, 6]], answers=[6, 7], wrong=[8, 9])
    scores = scores_of(model, last, steps=64)
    problem = contrast(model, last, "logit_difference", [])
    moved = problem.corrupted_metric - problem.clean_metric
    torch.testing.assert_close(scores.values[:, 0, -1], moved, rtol=1e-3, atol=1e-4)
    (best,) = scores.top(1)
    assert (str(best.writer), str(best.reader)) == ("embedding", "logits")


def test_scores_rank_edges_as_exact_patching_does(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    scores = scores_of(model_of("llama"), pairs, steps=5)
    parts, picks = scores.components, scores.exists.nonzero()[::7]
    edges = [(parts.writers[w], parts.readers[r]) for w, r in picks.tolist()]
    exact = exact_edges(scores, edges, rows_per_forward=6)
    found = scores.values[:, picks[:, 0], picks[:, 1]]
    assert pearson(exact.flatten(), found.flatten()) > 0.8
    torch.testing.assert_close(exact, exact_edges(scores, edges, rows_per_forward=64))


def test_a_write_that_is_missed_is_an_error(
    model_of: Callable[..., Any], pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Components._head_writes
    monkeypatch.setattr(Components, "_head_writes", lambda *a, **k: 2 * writes(*a, **k))
    with pytest.raises(HookPointError, match="missing or counted twice"):
        scores_of(model_of("llama"), pairs)


def test_families_and_edges_that_cannot_be_are_refused(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    with pytest.raises(HookPointError, match="Use heads=False"):
        edge_attribution(model_of("gemma2"), pairs, "logit_difference")
    with pytest.raises(HookPointError, match="was not seen"):
        edge_attribution(model_of("gptj"), pairs, "logit_difference")
    with pytest.raises(ConfigError, match="steps is -1"):
        scores_of(model_of("llama"), pairs, steps=-1)
    with pytest.raises(ConfigError, match="EAP takes the gradient at the clean"):
        edge_attribution(model_of("llama"), pairs, "kl")
    scores = scores_of(model_of("llama"), pairs)
    with pytest.raises(ConfigError, match=r"no edge mlp.1 -> mlp.0"):
        exact_edges(scores, [(Component("mlp", 1), Component("mlp", 0))])


def test_whole_attention_is_a_reader_of_all_its_inputs(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    by_head = scores_of(model_of("llama"), pairs)
    whole = edge_attribution(model_of("llama"), pairs, "logit_difference", heads=False)
    names = [str(r) for r in by_head.components.readers]
    parts = [
        n for n, name in enumerate(names) if name.split(".")[1:2] == ["2"] and "mlp" not in name
    ]
    attention = [str(r) for r in whole.components.readers].index("attention.2")
    torch.testing.assert_close(
        whole.values[:, 0, attention], by_head.values[:, 0, parts].sum(-1), rtol=1e-4, atol=1e-7
    )
