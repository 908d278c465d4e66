"""A folder of safetensors weights: which file holds which tensor, and what identifies them.

Flows in: a local folder as `save_pretrained` or a hub snapshot leaves it. Flows out: single tensors
on any device, and digests that are cached beside the files under their size and mtime.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bathyscope.errors import ModelError
from bathyscope.models.locks import one_process

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_HASHERS = min(8, os.cpu_count() or 1)
DIGEST_CACHE = ".bathyscope_digests.json"
# Fields of config.json that say where the file comes from, not what the model computes.
_PROVENANCE_FIELDS = ("transformers_version", "_name_or_path")
_BLOB_NAME = re.compile(r"[0-9a-f]{64}")


class StoredTensor(NamedTuple):
    """What a safetensors header says of one tensor."""

    file: Path
    key: str
    """Name inside the file."""
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of all weight files of a folder, known from their headers alone."""

    folder: Path
    tensors: dict[str, StoredTensor]

    def read(self, key: str, device: torch.device | str | int) -> Tensor:
        """One tensor in its stored dtype, straight to a device."""
        stored = self.tensors[key]
        with safe_open(stored.file, framework="pt", device=str(torch.device(device))) as file:
            tensor: Tensor = file.get_tensor(stored.key)
        return tensor


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of a folder's weight files. Raises ModelError for what cannot be read."""
    tensors: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - the file is no mapping
                    view = file.get_slice(key)
                    shape = tuple(int(size) for size in view.get_shape())
                    tensors[key] = StoredTensor(path, key, shape, _dtype(view.get_dtype(), path))
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} is no readable safetensors file ({error}). Was the download cut short? "
                f"Fetch it again."
            ) from error
    return Checkpoint(folder, tensors)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model, in the order of their names.

    `model.safetensors` alone, else the files of its index, else the only safetensors file.
    """
    if not folder.is_dir():
        raise ModelError(
            f"{str(folder)!r} is no local folder. A model is loaded from a folder with config.json "
            f"and safetensors files; fetch a hub model first (source kind 'hub')."
        )
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if (folder / INDEX_FILE).is_file():
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        files = [folder / name for name in sorted(set(index["weight_map"].values()))]
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise ModelError(f"{folder} lacks {', '.join(absent)}, which {INDEX_FILE} names.")
        return files
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise ModelError(
            f"{folder} holds {len(found)} safetensors files and neither {WEIGHTS_FILE} nor "
            f"{INDEX_FILE}, so it is unclear which make up the model."
        )
    raise ModelError(_no_weights(folder))


def model_digest(folder: str | Path, *, cache_folder: Path | None = None) -> dict[str, str]:
    """What identifies a model: file name -> digest, for its weight files and its config.

    Weights: sha256 of the file. It is the hub's own digest, taken from the file's name where the
    folder is a hub snapshot; else it is computed once and cached in the folder (in `cache_folder`
    where the folder is read-only) under the file's size and mtime. Config: sha256 of its fields in
    sorted order, without those that only say where it comes from.
    """
    folder = Path(folder)
    files = weight_files(folder)
    cache_path = _digest_cache(folder, cache_folder)
    known = _known_digests(files, cache_path)
    if len(known) < len(files) and cache_path is not None:
        # The workers of a node start together; hundreds of gigabytes are read once, not by each.
        with one_process(cache_path.with_name(f"{cache_path.name}.lock")):
            known = _known_digests(files, cache_path)
            if len(known) < len(files):
                known = _hashed(files, known)
                _write_cache(cache_path, known)
    elif len(known) < len(files):
        known = _hashed(files, known)
    digests = {name: f"sha256:{entry['sha256']}" for name, entry in known.items()}
    return digests | {"config.json": _config_digest(folder)}


def _dtype(name: str, path: Path) -> torch.dtype:
    known = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
    if name not in known:
        raise ModelError(
            f"{path} holds tensors of type {name}, which cannot be loaded. "
            f"Use a checkpoint in float32, float16 or bfloat16."
        )
    return known[name]


def _no_weights(folder: Path) -> str:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
    if pickles:
        return (
            f"{folder} holds only pickled weights ({', '.join(pickles[:3])}), which can run code "
            f"when they are read and are refused. Fetch the repository's safetensors revision, or "
            f"convert on a machine you trust: from_pretrained(folder).save_pretrained(new_folder)."
        )
    return f"{folder} holds no safetensors file, so there are no weights to load."


def _sha256(path: Path) -> str:
    blob = path.resolve().name
    if path.is_symlink() and path.resolve().parent.name == "blobs" and _BLOB_NAME.fullmatch(blob):
        return blob
    logger.info("hashing %s once (%.1f GB)", path, path.stat().st_size / 1e9)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known_digests(files: list[Path], cache_path: Path | None) -> dict[str, dict[str, Any]]:
    """Entries of the cache that are of the files as they are now."""
    cache = _read_cache(cache_path)
    known = {}
    for path in files:
        entry, stat = cache.get(path.name, {}), path.stat()
        if (entry.get("size"), entry.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns):
            known[path.name] = entry
    return known


def _hashed(files: list[Path], known: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """An entry for every file: those that are known, and the others, several files at a time."""

    def entry(path: Path) -> dict[str, Any]:
        if path.name in known:
            return known[path.name]
        stat = path.stat()
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": _sha256(path)}

    with ThreadPoolExecutor(_HASHERS) as pool:
        return {path.name: made for path, made in zip(files, pool.map(entry, files), strict=True)}


def _config_digest(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {name: config[name] for name in config if name not in _PROVENANCE_FIELDS}
    return f"sha256:{hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()}"


def _digest_cache(folder: Path, cache_folder: Path | None) -> Path | None:
    if os.access(folder, os.W_OK):
        return folder / DIGEST_CACHE
    if cache_folder is None:
        return None
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    return cache_folder / "digests" / f"{place}.json"


def _read_cache(path: Path | None) -> dict[str, dict[str, Any]]:
    if path is None or not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        logger.warning("ignoring the unreadable digest cache %s (%s)", path, error)
        return {}


def _write_cache(path: Path, entries: dict[str, dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that a reader never meets half a file.
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=path.name, suffix=".tmp", delete=False, encoding="utf-8"
    ) as file:
        json.dump(entries, file, indent=1, sort_keys=True)
    os.replace(file.name, path)
