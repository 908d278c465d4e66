"""Dimensions from a configuration: the published sizes, misspelt fields, another checkpoint."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from bathyscope.errors import ModelError
from bathyscope.models.architectures import check_architecture, config_of
from bathyscope.models.footprint import footprint
from bathyscope.models.load import read_config

PUBLISHED = {
    "llama3_1_405b": 405_853_388_800,
    "llama3_1_70b": 70_553_706_496,
    "llama3_1_8b": 8_030_261_248,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "mixtral_8x22b": 140_620_634_112,
    "mixtral_8x7b": 46_702_792_704,
    "pythia_12b": 11_846_072_320,
    "pythia_160m": 162_322_944,
    "pythia_1_4b": 1_414_647_808,
    "pythia_1b": 1_011_781_632,
    "pythia_2_8b": 2_775_208_960,
    "pythia_410m": 405_334_016,
    "pythia_6_9b": 6_857_302_016,
    "pythia_70m": 70_426_624,
    "qwen3_0_6b": 596_049_920,
    "qwen3_14b": 14_768_307_200,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_235b_a22b": 235_093_634_560,
    "qwen3_30b_a3b": 30_532_122_624,
    "qwen3_32b": 32_762_123_264,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
}
"""Parameters, tied embeddings once, as the makers state them."""


def architectures() -> dict[str, dict[str, Any]]:
    folder = resources.files("bathyscope.conf") / "model"
    read = {
        entry.name.removesuffix(".yaml"): yaml.safe_load(entry.read_text())
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    }
    return {
        name: values["architecture"] for name, values in read.items() if "architecture" in values
    }


def test_every_model_group_with_dimensions_is_compared() -> None:
    assert architectures().keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    assert footprint(config_of(architectures()[name])).total == PUBLISHED[name]


def test_a_misspelt_field_is_refused_with_a_near_match() -> None:
    with pytest.raises(ModelError, match=r"hiden_size is no field of a llama config.*hidden_size"):
        config_of({"model_type": "llama", "hiden_size": 8})


@pytest.mark.parametrize("kind", [None, "no_such_model"])
def test_an_unknown_model_type_is_refused(kind: str | None) -> None:
    with pytest.raises(ModelError, match=rf"model_type {kind!r}.*such as llama"):
        config_of({"model_type": kind, "hidden_size": 8})


def test_a_checkpoint_of_another_size_is_refused(folders: dict[str, Path]) -> None:
    config = read_config(folders["llama"])
    check_architecture(config, {"model_type": "llama", "hidden_size": config.hidden_size})
    with pytest.raises(ModelError, match=r"num_hidden_layers is 126, but the checkpoint's"):
        check_architecture(config, {"model_type": "llama", "num_hidden_layers": 126})
