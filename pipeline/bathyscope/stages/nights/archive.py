"""Nights that were let go: what each of them found, a line of JSON a night, in one file.

Without it a folder would gain two manifests a night for ever. The file is written before the
manifests go, and again by the next night where a stop came in between.
"""

from __future__ import annotations

import json

from bathyscope.runs.nights import ARCHIVE, archived_nights
from bathyscope.stores.manifests import COMPLETE, every
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

_FACTS = ("night", "started", "finished", "host", "told", "raised", "failed")


def archive_older(objects: Objects, last: int) -> None:
    """Move nights up to number `last` out of the manifests; `objects` is the folder of nights."""
    old: dict[str, Json] = {}
    for found in every(objects):
        if int(found.facts["night"]) <= last:
            old[f"manifests/{found.number:08d}.json"] = {**found.facts, "state": found.state}
    if not old:
        return
    lines = {int(night["night"]): night for night in archived_nights(objects)}
    for facts in old.values():
        if facts["state"] == COMPLETE:
            lines[int(facts["night"])] = {key: facts.get(key) for key in _FACTS}
    data = "".join(f"{json.dumps(lines[number])}\n" for number in sorted(lines))
    objects.put(ARCHIVE, data.encode(), fsync=True)
    objects.delete_many(old)
