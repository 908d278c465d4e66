"""Whole models: the order of blocks, the count of zeros, and what is refused."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bathyscope.errors import ConfigError, ModelError, NonFiniteError
from bathyscope.models.capture import capture
from bathyscope.models.hook_points import layer_numbers
from bathyscope.studies.block_inputs import BlockInputs
from bathyscope.studies.prunable import prunable
from bathyscope.studies.prune_model import AT_ONCE, BLOCK_BY_BLOCK, NO_INPUTS, prune_model
from bathyscope.studies.pruning import count_of
from double_decoders import DECODERS, make_model
from study_models import convolutions, gpt2, image_batches, llama, token_batches


@pytest.mark.parametrize("family", DECODERS)
def test_blocks_run_alone_give_the_models_streams(family: str) -> None:
    model = make_model(family)
    batches = token_batches(2)
    inputs = BlockInputs(model, batches)
    layers = layer_numbers(model)
    for index, layer in enumerate(layers):
        for batch, hidden in zip(batches, inputs._hidden, strict=True):
            wanted = capture(model, [f"resid_pre.{layer}"], {"input_ids": batch})
            assert torch.equal(hidden, wanted[f"resid_pre.{layer}"])
        inputs.run(index)
        inputs.advance(index)
    assert model.config.use_cache


def _tell(told: list[tuple[int, int]], done: int, total: int) -> None:
    told.append((done, total))


@pytest.mark.parametrize("method", ["magnitude", "magnitude_global", "wanda", "sparsegpt"])
def test_zeros_of_a_model(method: str) -> None:
    for model, batches, order in (
        (llama(), token_batches(), BLOCK_BY_BLOCK),
        (convolutions(), image_batches(), AT_ONCE),
    ):
        told: list[tuple[int, int]] = []
        weights = prunable(model).weights
        done = prune_model(model, method, 0.5, batches, progress=partial(_tell, told))
        assert done.order == (NO_INPUTS if "magnitude" in method else order)
        sizes = [w.shape for w in weights]
        if method == "wanda":
            wanted = sum(rows * count_of(0.5, columns) for rows, columns in sizes)
        elif method == "magnitude_global":
            wanted = count_of(0.5, done.entries)
        else:
            wanted = sum(count_of(0.5, rows * columns) for rows, columns in sizes)
        assert done.zeros == wanted
        assert done.entries == prunable(model).counts.prunable
        assert told[-1:] == ([] if method == "magnitude_global" else [(len(sizes), len(sizes))])


def test_later_blocks_are_shown_what_pruned_ones_give() -> None:
    model, batches = llama(), token_batches()
    dense = copy.deepcopy(model)
    prune_model(model, "wanda", 0.5, batches)
    path = "model.layers.2.self_attn.q_proj"
    # The first two blocks as they are now, the third as it was.
    partly = copy.deepcopy(model)
    partly.model.layers[2] = copy.deepcopy(dense.model.layers[2])
    for shown, same in ((partly, True), (dense, False)):
        rows = [capture(shown, [f"{path}:in"], {"input_ids": b})[f"{path}:in"] for b in batches]
        x = torch.cat(rows).flatten(0, 1)
        found = wanda_of(dense.get_submodule(path).weight, x)
        assert torch.equal(model.get_submodule(path).weight, found) == same


def wanda_of(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    scores = weight.abs() * x.norm(dim=0)
    gone = scores.argsort(1)[:, : weight.shape[1] // 2]
    return weight.scatter(1, gone, 0.0)


def test_sparsegpt_keeps_the_outputs_best() -> None:
    model, batches = gpt2(), token_batches(8, rows=4)
    dense = [model(b).logits for b in batches]
    found: dict[str, float] = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        pruned = copy.deepcopy(model)
        prune_model(pruned, method, 0.5, batches)
        found[method] = sum(
            float(F.mse_loss(pruned(b).logits, d)) for b, d in zip(batches, dense, strict=True)
        )
    assert found["sparsegpt"] < 0.8 * min(found["wanda"], found["magnitude"])


def test_a_budget_changes_no_weight() -> None:
    for make, batches in ((gpt2, token_batches()), (convolutions, image_batches())):
        free: Any = make()
        tight: Any = make()
        prune_model(free, "sparsegpt", 0.5, batches)
        prune_model(tight, "sparsegpt", 0.5, batches, memory_bytes=1)
        for one, other in zip(free.parameters(), tight.parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_share_of_nothing_and_of_all() -> None:
    model = gpt2()
    before = copy.deepcopy(model.state_dict())
    for method in ("magnitude", "magnitude_global", "wanda", "sparsegpt"):
        assert prune_model(model, method, 0, token_batches()).zeros == 0
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    done = prune_model(model, "sparsegpt", 1.0, token_batches())
    assert done.zeros == done.entries
    assert torch.isfinite(model(token_batches()[0]).logits).all()


def test_the_embedding_and_a_tied_head_stay() -> None:
    model = llama(tie_word_embeddings=True)
    before = model.lm_head.weight.clone()
    prune_model(model, "magnitude", 1.0)
    assert torch.equal(model.lm_head.weight, before)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_what_is_refused() -> None:
    model = gpt2()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match="No pruning method 'random'; wanted magnitude, wanda"):
        prune_model(model, "random", 0.5)
    for share in (-0.01, 1.01, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="wanted 0 to 1"):
            prune_model(model, "magnitude", share)
    with pytest.raises(ConfigError, match="wanda needs calibration batches and got none"):
        prune_model(model, "wanda", 0.5)
    once: Any = iter(token_batches())
    with pytest.raises(ConfigError, match="read only once"):
        prune_model(model, "wanda", 0.5, once)
    with pytest.raises(ModelError, match="training mode"):
        prune_model(gpt2().train(), "magnitude", 0.5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_bad_numbers_are_refused() -> None:
    images = image_batches()
    images[1][0, 0, 4, 4] = float("nan")
    with pytest.raises(NonFiniteError, match="Inputs of 'plain' are NaN"):
        prune_model(convolutions(), "wanda", 0.5, images)
    model = gpt2()
    model.transformer.h[0].mlp.c_fc.weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"h\.0\.mlp\.c_fc' holds NaN or infinity"):
        prune_model(model, "magnitude", 0.5)
