"""convert reads one project's folder and writes another's; what cannot be writes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bathyscope.commands.convert import convert
from bathyscope.config import Config, ConvertConfig
from bathyscope.errors import ConfigError, MissingArtifact, ModelError

FIXTURES = Path(__file__).parents[1] / "fixtures"


def config(
    source: Path, to: Path | None, format: str = "saelens", force: bool = False, **more: Any
) -> Config:
    settings = ConvertConfig(to=None if to is None else str(to), format=format, **more)
    return Config(url=str(source), convert=settings, force=force)


def test_there_and_back(tmp_path: Path) -> None:
    said: list[str] = []
    convert(config(FIXTURES / "sparsify/sae", tmp_path / "ours", "bathyscope"), said.append)
    convert(config(tmp_path / "ours", tmp_path / "theirs"), said.append)
    assert {p.name for p in (tmp_path / "theirs").iterdir()} == {
        "cfg.json", "sae_weights.safetensors",
    }  # fmt: skip
    assert "sparsify, topk autoencoder, 20 latents" in said[0]
    assert said[2].startswith("compared   outputs of 64 random rows differ by 0.0e+00")


def test_a_trained_dictionary_of_a_run(finished_config: Config, tmp_path: Path) -> None:
    source = Path(finished_config.url) / "dictionaries/main"
    convert(config(source, tmp_path / "saelens"), lambda line: None)
    assert (tmp_path / "saelens/cfg.json").is_file()


@pytest.mark.parametrize(
    ("source", "format", "error", "message"),
    [
        ("saelens/gated", "sparsify", ModelError, "sparsify has no gated autoencoder"),
        ("saelens/standard", "gemma", ModelError, "'gemma' is unknown"),
        ("saelens", "saelens", MissingArtifact, "has no files"),
    ],
)
def test_what_cannot_be_converted_writes_nothing(
    tmp_path: Path, source: str, format: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        convert(config(FIXTURES / source, tmp_path / "to", format), lambda line: None)
    assert not (tmp_path / "to").exists()


def test_a_folder_with_files_is_not_written_over(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "saelens/topk", tmp_path / "to")
    given = config(FIXTURES / "saelens/jumprelu", tmp_path / "to")
    with pytest.raises(ConfigError, match="already"):
        convert(given, lambda line: None)
    convert(config(FIXTURES / "saelens/jumprelu", tmp_path / "to", force=True), lambda line: None)
    assert "jumprelu" in (tmp_path / "to/cfg.json").read_text()


def test_a_set_becomes_folders_and_a_set_again(tmp_path: Path) -> None:
    source, ours, back = FIXTURES / "circuit_tracer/relu", tmp_path / "ours", tmp_path / "back"
    said: list[str] = []
    convert(config(source, ours, "bathyscope"), said.append)
    assert sorted(p.name for p in ours.iterdir()) == ["layer_0", "layer_1", "layer_2"]
    assert "circuit_tracer, layer 0, relu transcoder, 20 latents" in said[0]
    assert "k not known: the file does not say it" in said[1]
    assert json.loads((ours / "layer_0/config.json").read_text())["k"] is None

    def add(number: int, **more: Any) -> list[str]:
        said: list[str] = []
        convert(config(ours / f"layer_{number}", back, "circuit_tracer", **more), said.append)
        return said

    assert add(2)[-1].endswith("every layer from 0 on; still missing 0, 1")
    assert add(0)[-1].endswith("still missing 1")
    assert add(1)[-1].startswith("compared")
    assert sorted(p.name for p in back.iterdir()) == [
        "config.yaml", *(f"layer_{i}.safetensors" for i in range(3)),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"has layer_1\.safetensors already"):
        add(1)
    assert add(1, layer=3)[-1].startswith("compared")
    assert (back / "layer_3.safetensors").is_file()


def test_a_layer_of_another_kind_does_not_join_a_set(tmp_path: Path) -> None:
    convert(config(FIXTURES / "circuit_tracer/relu", tmp_path, "circuit_tracer"), lambda line: None)
    other = config(FIXTURES / "sparsify/skip_transcoder", tmp_path, "circuit_tracer", layer=3)
    with pytest.raises(ModelError, match="'' has no name in circuit-tracer"):
        convert(other, lambda line: None)
    other.convert.inputs, other.convert.outputs = ["mlp_in.3"], ["mlp_out.3"]
    with pytest.raises(ConfigError, match="activation is 'relu' there and 'topk' here"):
        convert(other, lambda line: None)
    assert not (tmp_path / "layer_3.safetensors").exists()


def test_one_layer_of_a_set_with_its_k(tmp_path: Path) -> None:
    source = FIXTURES / "circuit_tracer/skip_jumprelu"
    said: list[str] = []
    convert(config(source, tmp_path / "one", layer=1, k=5), said.append)
    assert said[1].endswith("sae_weights.safetensors; k 5")
    convert(config(tmp_path / "one", tmp_path / "ours", "bathyscope"), said.append)
    assert said[4].endswith("k 5")
    assert json.loads((tmp_path / "ours/config.json").read_text())["k"] == 5
    with pytest.raises(ModelError, match=r"of layers 0, 1, 2.*got 3"):
        convert(config(source, tmp_path / "no", layer=3), said.append)
    with pytest.raises(ConfigError, match=r"a set of 3\. Choose a layer"):
        convert(config(source, tmp_path / "no", inputs=["mlp_in.3"]), said.append)
    with pytest.raises(ConfigError, match=r"convert\.layer is 1, but the folder is one"):
        convert(config(tmp_path / "one", tmp_path / "no", layer=1), said.append)


def test_a_cross_layer_transcoder(tmp_path: Path) -> None:
    said: list[str] = []
    source = FIXTURES / "circuit_tracer/clt_jumprelu"
    convert(config(source, tmp_path / "ours", "bathyscope"), said.append)
    assert "jumprelu cross_layer_transcoder, 60 latents" in said[0]
    with pytest.raises(ModelError, match="saelens has no cross layer transcoder"):
        convert(config(tmp_path / "ours", tmp_path / "no"), said.append)


def test_a_target_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"convert\.to is not set"):
        convert(config(FIXTURES / "saelens/topk", None), lambda line: None)
