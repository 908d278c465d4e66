"""Checks a whole run: each artifact's store, its files, and what it says it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import xxhash

from bathyscope.errors import BathyscopeError, StoreError
from bathyscope.runs.identity import digest
from bathyscope.runs.run import ACTIVATIONS, CORPUS, DICTIONARIES
from bathyscope.stores.manifests import COMPLETE, Manifest, every
from bathyscope.stores.objects import Objects
from bathyscope.stores.verify import Checked, Fault, check_segment
from bathyscope.values import Json

_UPSTREAM = {"corpus": CORPUS, "activations": ACTIVATIONS}


@dataclass(frozen=True)
class Settings:
    """How thorough a check is."""

    share: float = 1.0
    """Of the shards whose bytes are read; sizes and receipts are checked of all."""
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True)
class Verified:
    """One artifact, checked."""

    artifact: str
    stage: str
    complete: bool
    checked: Checked


def artifacts(run: Objects) -> list[str]:
    """Folders of a run that hold a manifest, sorted."""
    found = []
    for folder in run.children():
        inner = run.children(folder)
        if "manifests" in inner:
            found.append(folder)
        found += [f"{folder}/{n}" for n in inner if "manifests" in run.children(f"{folder}/{n}")]
    return sorted(found)


def verify(
    run: Objects, settings: Settings, *, tell: Callable[[str, int], None] = lambda *_: None
) -> Iterator[Verified]:
    """Check every artifact of a run. Changes nothing.

    `tell` is called with the artifact and the bytes of every shard that was read. Raises
    `StoreError` when there is no artifact at all.
    """
    found = artifacts(run)
    if not found:
        raise StoreError(
            f"{run.location} holds no artifact. Give the folder of a run, as in "
            "`bathyscope verify runs/demo`."
        )
    for artifact in found:
        yield _artifact(run, artifact, settings, partial(tell, artifact))


def _artifact(
    run: Objects, artifact: str, settings: Settings, tell: Callable[[int], None]
) -> Verified:
    objects = run.at(artifact)
    try:
        manifests = list(every(objects))
    except (BathyscopeError, ValueError, KeyError, TypeError) as error:
        said = f"its newest manifest cannot be read: {error}. Restore it, or pass force=true"
        return Verified(artifact, "?", False, Checked(faults=[_outside(said)]))
    complete = next((m for m in manifests if m.state == COMPLETE), None)
    manifest = complete or manifests[0]
    checked = Checked()
    for segment in manifest.segments:
        checked.add(
            check_segment(
                objects,
                segment,
                complete=complete is not None,
                share=settings.share,
                seed=settings.seed,
                threads=settings.threads,
                tell=tell,
            )
        )
    checked.faults += map(_outside, _files(objects, manifest))
    checked.faults += map(_outside, _origin(run, artifact, manifest))
    stage = str(manifest.identity.get("stage", "?"))
    return Verified(artifact, stage, complete is not None, checked)


def _outside(what: str) -> Fault:
    """A fault that no unit can repair."""
    return Fault(what, redo=False)


def _files(objects: Objects, manifest: Manifest) -> Iterator[str]:
    """Files that the manifest names, compared with the digests beside them."""
    for name, key in manifest.facts.items():
        wanted = manifest.facts.get(f"{name.removesuffix('_key')}_digest")
        if not name.endswith("_key"):
            continue
        try:
            data = objects.get(key)
        except BathyscopeError:
            yield f"{key}, which the manifest names, cannot be read"
            continue
        if wanted is not None and xxhash.xxh3_128_hexdigest(data) != wanted:
            yield f"{key} holds other bytes than the manifest says"


def _origin(run: Objects, artifact: str, manifest: Manifest) -> Iterator[str]:
    """What the identity names, compared with what lies in the run now."""
    identity = manifest.identity
    for segment in manifest.segments:
        if digest(identity) not in segment.name:
            yield f"segment {segment.name} is named after another identity than the manifest's"
    for name, upstream in _UPSTREAM.items():
        there = _newest(run, upstream)
        if name in identity and there and digest(there.identity) != identity[name]:
            yield f"it was made from another {upstream} than the one that is there"
    name, weights = artifact.rsplit("/", 1)[-1], identity.get("dictionary")
    if before := identity.get("fine_tuned_from"):
        name, weights = before["name"], before["weights"]
    there = _newest(run, f"{DICTIONARIES}/{name}")
    if isinstance(weights, str) and there and there.facts.get("weights_digest") != weights:
        yield "it was made from another dictionary than the one that is there"


def _newest(run: Objects, artifact: str) -> Manifest | None:
    try:
        return next((m for m in every(run.at(artifact)) if m.state == COMPLETE), None)
    except (BathyscopeError, ValueError, KeyError):
        # Its own check names it.
        return None


def overrides_of(run: Objects) -> list[str]:
    """What the run was last started with; empty when run.json cannot be read."""
    try:
        record: Json = json.loads(run.get("run.json"))
        return [str(word) for word in record["overrides"]]
    except (BathyscopeError, ValueError, KeyError, TypeError):
        return []
