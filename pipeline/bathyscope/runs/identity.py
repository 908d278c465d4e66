"""Identity: what an artifact was made from, compared field by field.

History (commit, versions, host, times) is another record and is never compared.
"""

from __future__ import annotations

import hashlib
import json
from itertools import takewhile

from bathyscope.errors import IdentityMismatch
from bathyscope.values import Json

_ABSENT = object()
_LONGEST = 80


def digest(identity: Json) -> str:
    """A short digest of an identity: names segments, and stands for the artifact upstream."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def same(there: Json, wanted: Json) -> bool:
    """Whether two identities are equal as JSON: a tuple is a list, NaN is NaN."""
    return digest(there) == digest(wanted)


def difference(there: Json, wanted: Json, prefix: str = "") -> list[str]:
    """Lines `field: old -> new` for every field that differs."""
    lines = []
    for key in sorted({*there, *wanted}):
        name = f"{prefix}{key}"
        old, new = there.get(key, _ABSENT), wanted.get(key, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += difference(old, new, f"{name}.")
        elif old is _ABSENT or new is _ABSENT or not same({key: old}, {key: new}):
            lines.append(f"{name}: {_change(old, new)}")
    return lines


def refuse(artifact: str, there: Json, wanted: Json, hint: str) -> IdentityMismatch:
    """The error for an artifact that was made from something else."""
    changed = "\n  ".join(difference(there, wanted))
    return IdentityMismatch(
        f"{artifact} is already there and was made from something else:\n  {changed}\n"
        f"Nothing was changed. {hint}"
    )


def _change(old: object, new: object) -> str:
    texts = [v if isinstance(v, str) else _as_json(v) for v in (old, new)]
    if texts[0] == texts[1]:
        # The text "1" and the number 1 look the same without quotes.
        texts = [_as_json(old), _as_json(new)]
    if max(map(len, texts)) > _LONGEST:
        pairs = zip(*texts, strict=False)
        equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        texts = [_around(text, equal) for text in texts]
    return " -> ".join(texts)


def _as_json(value: object) -> str:
    return "absent" if value is _ABSENT else json.dumps(value)


def _around(text: str, place: int) -> str:
    start = max(place - 20, 0)
    cut = text[start : start + _LONGEST]
    return f"{'...' if start else ''}{cut}{'...' if start + _LONGEST < len(text) else ''}"
