"""Secrets stay out of what is written: records, logs, pages and errors."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.I)
_IN_URL = re.compile(r"(\w+://[^\s/:@]*):[^\s/@]+@")
_IN_QUERY = re.compile(
    r"([?&](?:[\w-]*(?:signature|token|secret|credential)[\w-]*)=)[^&\s\"']+", re.I
)
_SHORTEST = 6
HIDDEN = "***"


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with secrets replaced by ***.

    Hidden are values of environment variables whose names speak of tokens, keys, secrets or
    passwords, where they have 6 characters or more; passwords in URLs; and signatures and tokens
    in their queries.
    """
    known = os.environ if environment is None else environment
    # Longer ones first: one may hold another.
    values = {v for name, v in known.items() if len(v) >= _SHORTEST and _SECRET_NAME.search(name)}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return _IN_QUERY.sub(rf"\1{HIDDEN}", _IN_URL.sub(rf"\1:{HIDDEN}@", text))
