"""Weights come back bit by bit."""

from __future__ import annotations

import pytest
import torch

from bathyscope.studies.prunable import prunable
from bathyscope.studies.prune_model import prune_model
from bathyscope.studies.quantising import Rounding, quantise
from bathyscope.studies.restoring import Snapshot, changed
from study_models import convolutions, gpt2, image_batches, token_batches


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_one_snapshot_serves_every_method() -> None:
    model = gpt2().bfloat16()
    before = state(model)
    kept = Snapshot(prunable(model).weights)
    for method in ("magnitude", "magnitude_global", "wanda", "sparsegpt"):
        with kept.changing():
            prune_model(model, method, 0.5, token_batches())
            assert not same(model, before)
        assert same(model, before)
    with kept.changing():
        quantise(prunable(model).weights, Rounding(3))
        assert not same(model, before)
    assert same(model, before)


def test_restored_after_an_exception() -> None:
    model = convolutions()
    before = state(model)

    def fail() -> None:
        prune_model(model, "sparsegpt", 0.5, image_batches())
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"), changed(prunable(model).weights):
        fail()
    assert same(model, before)
