"""What stages read from the configuration: model folder, corpus source, loaded parts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bathyscope.config import Config
from bathyscope.corpora.images import IMAGE_KINDS
from bathyscope.models.sources import local_folder


def cache_folder(config: Config) -> Path:
    """Where converted models and extracted text are kept between runs.

    `config.cache`, else BATHYSCOPE_CACHE, else `bathyscope` in XDG_CACHE_HOME or ~/.cache.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    chosen = config.cache or os.environ.get("BATHYSCOPE_CACHE") or base / "bathyscope"
    folder = Path(chosen).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_of_images(config: Config) -> bool:
    """Whether the corpus is one of pictures."""
    return config.data.kind in IMAGE_KINDS


def model_folder(config: Config) -> Path:
    """The local folder of the model, converted or downloaded if need be."""
    model = config.model
    options = {"path": model.path, "repo": model.repo, "revision": model.revision}
    given = {name: value for name, value in options.items() if value is not None}
    return local_folder(model.kind, given, cache_folder(config))


def text_sources(config: Config) -> list[tuple[str, dict[str, Any]]]:
    """The text source and those that are added to it: kinds with their options."""
    added = [(kind, _added_options(config, kind)) for kind in config.data.also]
    return [(config.data.kind, source_options(config)), *added]


def source_options(config: Config) -> dict[str, Any]:
    """The options of the text source."""
    data = config.data
    if data.kind in ("linux_doc", "nlp_corpus"):
        return _added_options(config, data.kind)
    if data.kind == "documentation":
        return {"packages": list(data.packages), "min_chars": data.min_chars}
    paths = list(data.paths)
    if data.kind in ("jsonl", "parquet"):
        return {"paths": paths, "text_key": data.text_key, "id_key": data.id_key}
    if data.kind == "chat":
        return {"paths": paths, "messages_key": data.messages_key, "id_key": data.id_key}
    if data.kind == "tokens_bin":
        return {"paths": paths, "token_dtype": data.token_dtype}
    return {
        "name": data.dataset,
        "config_name": data.dataset_config,
        "split": data.dataset_split,
        "text_key": data.text_key,
        "revision": data.dataset_revision,
    }


def _added_options(config: Config, kind: str) -> dict[str, Any]:
    data = config.data
    return {"folder": data.linux_doc} if kind == "linux_doc" else {"path": data.nlp_corpus}
