"""Which files make up a model, and digests that are computed once."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bathyscope.errors import ModelError
from bathyscope.models import checkpoints
from bathyscope.models.checkpoints import (
    DIGEST_CACHE,
    model_digest,
    open_checkpoint,
    weight_files,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"w": torch.arange(6.0).reshape(2, 3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"b": 1, "a": 2, "transformers_version": "5.0"}')
    return tmp_path


def test_headers_and_tensors(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    stored = checkpoint.tensors["w"]
    assert (stored.shape, stored.dtype) == ((2, 3), torch.float32)
    assert checkpoint.read("w", "cpu").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_which_files_count(folder: Path) -> None:
    (folder / "consolidated.safetensors").write_bytes(b"")
    assert [f.name for f in weight_files(folder)] == ["model.safetensors"]
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(ModelError, match="holds 2 safetensors files"):
        weight_files(folder)
    index = {"weight_map": {"w": "other.safetensors", "v": "gone.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks gone\.safetensors"):
        weight_files(folder)


def test_folders_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no local folder"):
        weight_files(tmp_path / "absent")
    with pytest.raises(ModelError, match="holds no safetensors file"):
        weight_files(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="save_pretrained"):
        weight_files(tmp_path)


def test_damaged_file(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-4])
    with pytest.raises(ModelError, match="no readable safetensors file"):
        open_checkpoint(folder)


def test_digest_is_the_sha256_and_is_cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (folder / "model.safetensors").read_bytes()
    digest = model_digest(folder)
    assert digest["model.safetensors"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    canonical = hashlib.sha256(b'{"a": 2, "b": 1}').hexdigest()
    assert digest["config.json"] == f"sha256:{canonical}"
    hashed: list[Path] = []
    monkeypatch.setattr(checkpoints, "_sha256", lambda path: hashed.append(path) or "new")
    assert model_digest(folder) == digest
    assert not hashed
    # Another time of change makes it look again.
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert model_digest(folder)["model.safetensors"] == "sha256:new"
    assert len(hashed) == 1


def test_unreadable_cache_is_made_again(folder: Path) -> None:
    digest = model_digest(folder)
    (folder / DIGEST_CACHE).write_text("{half")
    assert model_digest(folder) == digest
    assert json.loads((folder / DIGEST_CACHE).read_text())["model.safetensors"]["sha256"]


def test_read_only_folder_uses_the_cache_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(checkpoints.os, "access", lambda *_: False)
    digest = model_digest(folder, cache_folder=cache)
    assert len(list((cache / "digests").glob("*.json"))) == 1
    assert not (folder / DIGEST_CACHE).exists()
    assert model_digest(folder) == digest


def test_hub_snapshots_know_their_digest(folder: Path) -> None:
    blob = folder / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    assert model_digest(folder)["model.safetensors"] == f"sha256:{'ab' * 32}"


def test_workers_that_start_together_hash_each_file_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def slow(path: Path) -> str:
        hashed.append(path.name)
        time.sleep(0.05)
        return "0" * 64

    monkeypatch.setattr(checkpoints, "_sha256", slow)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: checkpoints.model_digest(folder), range(6)))
    assert all(one == found[0] for one in found)
    assert sorted(hashed) == sorted(path.name for path in checkpoints.weight_files(folder))


def test_a_file_system_without_locks_is_no_obstacle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert checkpoints.model_digest(folder)
    assert "cannot be locked (no locks available)" in caplog.text
