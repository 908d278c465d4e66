"""redo: receipts of units are taken back, so that the stage does these units again."""

from __future__ import annotations

from collections.abc import Callable

from bathyscope.config import Config
from bathyscope.errors import ConfigError, MissingArtifact
from bathyscope.stores.manifests import Segment, every
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.shards import metadata_fault
from bathyscope.stores.units import create_segment


def redo(config: Config, say: Callable[[str], None]) -> None:
    """Void the receipts of units and packs of one segment; restore its Zarr metadata.

    `config.url` is the folder of the artifact. The receipts are kept in `quarantine/`. Raises
    `MissingArtifact` when no artifact or no such segment is there.
    """
    objects = Objects(config.url)
    settings = config.redo
    segment = _segment(objects, settings.segment)
    receipts = Receipts(objects, segment.name)
    for group in settings.packs:
        said = "taken back" if receipts.void_pack(group, settings.reason) else "not there"
        say(f"pack {group}: {said}")
    for unit in settings.units:
        said = "taken back" if receipts.void(unit, settings.reason) else "had no receipt"
        say(f"unit {unit}: {said}")
    _restore_metadata(objects, segment, say)
    say("Now give the command of the stage again: only what was taken back is done.")


def _segment(objects: Objects, name: str | None) -> Segment:
    segments = {s.name: s for m in every(objects) for s in m.segments}
    if not segments:
        raise MissingArtifact(
            f"{objects.location} is no artifact. Give the folder that holds `manifests`, as "
            "`bathyscope verify` prints it: bathyscope redo runs/demo/activations.zarr …"
        )
    if name is None and len(segments) == 1:
        return next(iter(segments.values()))
    if name not in segments:
        raise ConfigError(
            f"redo.segment is {name!r}; {objects.location} has {', '.join(sorted(segments))}. "
            "Give one of them."
        )
    return segments[name]


def _restore_metadata(objects: Objects, segment: Segment, say: Callable[[str], None]) -> None:
    for spec in segment.arrays:
        if metadata_fault(objects, segment.name, spec, capacity=segment.capacity(spec.name)):
            objects.delete(f"{spec.name}/{segment.name}/zarr.json")
            say(f"{spec.name}/{segment.name}/zarr.json: written anew")
    create_segment(objects, segment)
