"""Identity: what an artifact was made from, compared field by field.

History (commit, versions, host, times) is another record and is never compared.
"""

from __future__ import annotations

import hashlib
import json

from bathyscope.errors import IdentityMismatch
from bathyscope.values import Json


def digest(identity: Json) -> str:
    """A short digest of an identity: names segments, and stands for the artifact upstream."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def difference(there: Json, wanted: Json, prefix: str = "") -> list[str]:
    """Lines `field: old -> new` for every field that differs."""
    lines = []
    for key in sorted({*there, *wanted}):
        name = f"{prefix}{key}"
        old, new = there.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += difference(old, new, f"{name}.")
        elif old != new:
            lines.append(f"{name}: {_short(old)} -> {_short(new)}")
    return lines


def refuse(artifact: str, there: Json, wanted: Json, hint: str) -> IdentityMismatch:
    """The error for an artifact that was made from something else."""
    changed = "\n  ".join(difference(there, wanted))
    return IdentityMismatch(
        f"{artifact} is already there and was made from something else:\n  {changed}\n"
        f"Nothing was changed. {hint}"
    )


def _short(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 80 else f"{text[:77]}..."
