"""Latents and errors: together they are all of the change, and each is patched exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bathyscope.attribution.nodes import (
    Latents,
    Pairs,
    Positions,
    atp_star,
    attribution_patching,
    completeness_gap,
    contrast,
    exact_patching,
    integrated_gradients,
)
from bathyscope.attribution.nodes.bound import LatentNodes
from bathyscope.attribution.nodes.forward import traced
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.errors import HookPointError
from bathyscope.models.splice import spliced

D, LATENTS = 32, 24


def dictionary_of(
    kind: str = "autoencoder", read: str = "resid_post.1", written: str | None = None,
    *, activation: str = "topk", width: int = D,
) -> Dictionary:  # fmt: skip
    columns = columns_of([(read, width)]), columns_of([(written or read, width)])
    made = make_dictionary(
        kind, *columns, activation=activation, k=4, num_latents=LATENTS, dtype=torch.float64
    )
    torch.manual_seed(3)
    for parameter in made.parameters():
        parameter.data.normal_().mul_(0.3)
    assert isinstance(made, Dictionary)
    return made.eval().requires_grad_(False)


TRANSCODERS = [
    dictionary_of(),
    dictionary_of(activation="relu", read="attn_out.0"),
    dictionary_of("transcoder", "mlp_in.1", "mlp_out.1"),
    dictionary_of("skip_transcoder", "mlp_in.1", "mlp_out.1"),
]


@pytest.mark.parametrize("dictionary", TRANSCODERS)
def test_nodes_add_up_to_the_change_of_the_whole_tensor(
    dictionary: Dictionary, model_of: Callable[..., Any], pairs: Pairs
) -> None:
    model = model_of("llama")
    problem = contrast(model, pairs, "logit_difference", [Latents(dictionary)])
    (place,) = problem.places
    whole = Positions(place=place.name).bind(
        model, traced(model, pairs.clean, [place]).tensors,
        traced(model, pairs.corrupted, [place]).tensors, pairs,
    )[0]  # fmt: skip
    gradient = torch.randn(3, 8, D).double()
    total = torch.zeros(24).double()
    for nodes in problem.nodes:
        where = nodes.table.pair * 8 + nodes.table.position
        total.index_add_(0, where, nodes.dot(gradient))
    torch.testing.assert_close(total, whole.dot(gradient), rtol=1e-6, atol=1e-9)
    scores = integrated_gradients(problem, steps=32)
    gap = completeness_gap(problem, scores, place)
    assert float(gap.abs().max()) < 1e-3


def test_a_latents_change_is_its_decoder_row_times_its_change(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    model, dictionary = model_of("llama"), dictionary_of()
    problem = contrast(model, pairs, "logit_difference", [Latents(dictionary)])
    nodes = problem.nodes[0]
    assert isinstance(nodes, LatentNodes)
    exact = exact_patching(problem).values[0]
    picks = nodes.change.abs().topk(5).indices
    for pick in picks.tolist():
        pair, position, latent = (
            int(t[pick]) for t in (nodes.table.pair, nodes.table.position, nodes.table.index)
        )
        (clean, corrupted) = (
            traced(model, side, problem.places).tensors[problem.places[0]][pair, position]
            for side in (pairs.clean, pairs.corrupted)
        )
        values = [dense(dictionary, x)[latent] for x in (clean, corrupted)]
        row = dictionary.W_dec[latent] * (values[1] - values[0])

        def add(x: Any, pair: int = pair, position: int = position, row: Any = row) -> Any:
            x = x.clone()
            x[pair, position] += row
            return x

        with spliced(model, "resid_post.1", add), torch.no_grad():
            assert isinstance(pairs.clean, dict)
            logits = model(**pairs.clean).logits
        effect = problem.metric(logits)[pair] - problem.clean_metric[pair]
        torch.testing.assert_close(exact[pick], effect)


def dense(dictionary: Dictionary, x: torch.Tensor) -> torch.Tensor:
    latents = dictionary.encode(x[None])
    found = torch.zeros(LATENTS).double()
    found[latents.indices[0, : latents.count[0]].long()] = latents.values[0, : latents.count[0]]
    return found


def test_latents_that_are_active_on_neither_prompt_are_no_nodes(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    problem = contrast(
        model_of("llama"), pairs, "logit_difference", [Latents(dictionary_of(), errors=False)]
    )
    (nodes,) = problem.nodes
    per_row = torch.bincount(nodes.table.pair * 8 + nodes.table.position, minlength=24)
    assert int(per_row.max()) <= 8
    # Before the changed token both prompts are the same, and so are their four latents.
    assert per_row.view(3, 8)[:, :3].unique().tolist() == [4]
    before = nodes.table.position < 3
    assert float(nodes.change[before].abs().max()) == 0
    assert float(attribution_patching(problem).values[0][before].abs().max()) == 0


def test_atp_star_scores_latents_too(model_of: Callable[..., Any], pairs: Pairs) -> None:
    problem = contrast(model_of("gpt2"), pairs, "logit_difference", [Latents(dictionary_of())])
    star = atp_star(problem)
    assert [len(v) for v in star.values] == [len(n.table) for n in problem.nodes]
    assert float(star.flat().min()) >= 0


def test_dictionaries_that_do_not_fit_are_refused(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    model = model_of("llama")
    with pytest.raises(HookPointError, match=r"16 wide at resid_post.1.*\[3, 8, 32\]"):
        contrast(model, pairs, "logit_difference", [Latents(dictionary_of(width=16))])
    columns = columns_of([("resid_post.0", D), ("resid_post.1", D)])
    crosscoder = make_dictionary(
        "crosscoder", columns, columns, activation="topk", k=4, num_latents=LATENTS
    )
    assert isinstance(crosscoder, Dictionary)
    with pytest.raises(HookPointError, match="crosscoder reads 2 hook points"):
        contrast(model, pairs, "logit_difference", [Latents(crosscoder)])
