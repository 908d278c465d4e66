"""Rungs: parameters by formula and by count, and what cannot be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from bathyscope.cli import compose
from bathyscope.errors import ConfigError
from bathyscope.models.rungs import (
    FAMILIES,
    Rung,
    mlp_width,
    model_files,
    new_decoder,
    num_embedding_parameters,
    num_parameters,
    rung_config,
)

SMALL = Rung(parameters=40_000, width=32, layers=2, heads=2)
SIZES = {"vocabulary": 400, "context": 32}


def counted(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ladder", ["cpu", "gpu"])
def test_every_rung_of_the_ladders_has_the_parameters_of_the_formula(
    family: str, ladder: str
) -> None:
    config, _ = compose([f"ladder={ladder}"])
    sizes = {"vocabulary": config.ladder.vocabulary, "context": config.data.sequence_length}
    for given in config.ladder.rungs:
        rung = Rung(**given)
        with torch.device("meta"):
            model = new_decoder(rung_config(family, rung, **sizes), seed=0)
        assert counted(model) == num_parameters(family, rung, **sizes)
        # Families are compared at equal size, which rounding the MLPs' width moves by little.
        assert abs(counted(model) / rung.parameters - 1) < 0.01
        embedded = [m for m in model.modules() if isinstance(m, nn.Embedding)]
        assert sum(map(counted, embedded)) == num_embedding_parameters(family, rung, **sizes)


def test_parameters_by_hand() -> None:
    """Width 2, one layer, one head, an MLP of 8, a vocabulary of 10 and a context of 3."""
    sizes = {"vocabulary": 10, "context": 3}
    # Embeddings 20 + 6; attention 6 + 12 + 2 + 4 = 24; norms 8; MLP 16 + 8 + 16 + 2; norm 4.
    assert num_parameters("gpt2", Rung(104, 2, 1, 1), **sizes) == 104
    # Embeddings 20; attention 16; norms 4; MLP 48; norm 2.
    assert num_parameters("llama", Rung(90, 2, 1, 1), **sizes) == 90


@pytest.mark.parametrize("family", FAMILIES)
def test_seeds_decide_the_weights_and_leave_the_generator_of_others_alone(family: str) -> None:
    config = rung_config(family, SMALL, **SIZES)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    models = [new_decoder(config, seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    zero, again, one = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(zero, again)
    assert not torch.equal(zero, one)


@pytest.mark.parametrize("family", FAMILIES)
def test_files_are_a_folder_that_transformers_opens(family: str, tmp_path: Path) -> None:
    model = new_decoder(rung_config(family, SMALL, **SIZES), seed=0).eval()
    for name, data in model_files(model).items():
        (tmp_path / name).write_bytes(data)
    tokens = torch.arange(32)[None]
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert torch.equal(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("family", "rung", "message"),
    [
        ("mpt", SMALL, r"no family 'mpt' of ladders\. There are: gpt2, llama"),
        ("gpt2", Rung(40_000, 32, 2, 3), r"width 32 and 3 heads\. The width must be a multiple"),
        ("llama", Rung(40_000, 30, 2, 2), r"of a head an even number in llama"),
        ("gpt2", Rung(40_000, 32, 2, 0), r"width 32 and 0 heads"),
        ("gpt2", Rung(9_000, 32, 2, 2), r"can have 26,816 to 55,936 parameters; .* 9,000\."),
        ("llama", Rung(10**6, 32, 2, 2), r"asks for 1,000,000\. Change its parameters, width"),
    ],
)
def test_rungs_that_cannot_be_built(family: str, rung: Rung, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mlp_width(family, rung, **SIZES)
