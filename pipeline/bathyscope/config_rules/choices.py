"""A setting that is one of several words."""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.errors import ConfigError

FILE_KINDS = ("jsonl", "parquet", "chat", "tokens_bin")
ADDED_KINDS = ("linux_doc", "nlp_corpus")
TEXT_KINDS = ("documentation", "hf", *ADDED_KINDS, *FILE_KINDS)
IMAGE_KINDS = ("images", "tar", "arrays")


def one_of(name: str, got: str, allowed: Sequence[str]) -> None:
    """Raise `ConfigError` unless the setting `name` has one of the allowed values."""
    if got not in allowed:
        raise ConfigError(f"{name} is {got!r}. One of {', '.join(allowed)} is wanted.")
