"""Names of graph files: readable, the same in every process, safe in a path and in a URL."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from bathyscope.errors import ConfigError

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_WORDS = 48
_TAKEN = "graph-metadata"
"""The index of the graphs, which lies beside them."""


def slug_of(prompt: str, identity: dict[str, Any]) -> str:
    """A slug from the words of a prompt and a digest of what identifies the graph.

    `identity` is JSON: tokens, digests of model and dictionaries, settings. Two graphs of one
    prompt differ in the digest.
    """
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:_WORDS].strip("-")
    text = json.dumps([_safe(prompt), identity], sort_keys=True, ensure_ascii=True)
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()[:10]
    return f"{words}-{digest}" if words else f"graph-{digest}"


def check_slug(slug: str) -> str:
    """The slug itself. Raises `ConfigError` for one that is no file name everywhere."""
    if _SLUG.fullmatch(slug) is None or slug == _TAKEN:
        raise ConfigError(
            f"The slug {slug!r} cannot name a graph: wanted 1 to 128 of the characters A-Z, a-z, "
            f"0-9, '.', '_' and '-', a letter or digit first, and not {_TAKEN!r}. Leave it out to "
            "have one made of the prompt."
        )
    return slug


def _safe(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("ascii", "backslashreplace")
