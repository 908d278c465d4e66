"""convert reads one project's folder and writes another's; what cannot be writes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bathyscope.commands.convert import convert
from bathyscope.config import Config, ConvertConfig
from bathyscope.errors import ConfigError, MissingArtifact, ModelError

FIXTURES = Path(__file__).parents[1] / "fixtures"


def config(source: Path, to: Path | None, format: str = "saelens", **more: object) -> Config:
    settings = ConvertConfig(to=None if to is None else str(to), format=format)
    return Config(url=str(source), convert=settings, **more)  # type: ignore[arg-type]


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


def test_a_target_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"convert\.to is not set"):
        convert(config(FIXTURES / "saelens/topk", None), lambda line: None)
