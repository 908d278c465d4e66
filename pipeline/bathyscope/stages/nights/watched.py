"""What a night finds: checkpoints in watched folders, and files of watched corpora."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bathyscope.config import Config, ModelConfig
from bathyscope.corpora.file_list import CorpusFile
from bathyscope.corpora.sources import file_digest, files_of_kind
from bathyscope.errors import ConfigError, CorpusError, ModelError
from bathyscope.models.checkpoints import model_digest, weight_files
from bathyscope.runs.identity import digest
from bathyscope.stages.inputs import cache_folder
from bathyscope.stages.model import describe_model
from bathyscope.values import Json

Note = Callable[[str], None]


@dataclass(frozen=True)
class Checkpoint:
    """Weights that are watched."""

    name: str
    """Of its folder or commit, with the digest of its weights: other weights have another name."""
    digest: str
    model: Json
    """What `model` takes to load it."""

    def of(self, config: Config) -> ModelConfig:
        """The configuration of this model."""
        return replace(config.model, **self.model)


@dataclass(frozen=True)
class WatchedFile:
    """A file of a watched corpus, as it was when it was read."""

    path: str
    size: int
    mtime_ns: int
    digest: str


def checkpoints_of(config: Config, *, now: float, note: Note) -> list[Checkpoint]:
    """The checkpoints that are there, the newest last: by name, numbers in it as numbers.

    One that is not complete or has changed within `nightly.settle_s` seconds before `now` is noted
    and left out, as are weights that another one has. Without watched folders and revisions the
    model of the configuration is the only one. Raises `ConfigError` for a folder that is not there.
    """
    nightly, found = config.nightly, []
    for place in nightly.checkpoints:
        found += _in_folder(config, Path(place).expanduser(), now, note)
    found += [
        Checkpoint(_safe(revision)[:12], revision, {"revision": revision})
        for revision in nightly.revisions
    ]
    if not nightly.checkpoints and not nightly.revisions:
        found = [_alone(config)]
    known: dict[str, Checkpoint] = {}
    for each in found:
        if each.digest in known:
            note(f"{each.name} has the weights of {known[each.digest].name} and is left out")
        else:
            known[each.digest] = each
    return list(known.values())


def files_of(
    config: Config, known: Mapping[str, WatchedFile], *, now: float, note: Note
) -> list[WatchedFile]:
    """The files that `data.paths` names; the digest of a `known` one is not computed again.

    Files that changed within `nightly.settle_s` seconds before `now` are noted and left out.
    """
    try:
        listed = files_of_kind(config.data.kind, config.data.paths)
    except CorpusError as error:
        # An empty inbox is an ordinary night; a path that is wrong looks the same, so it is told.
        note(str(error))
        return []
    found, waiting = [], 0
    for file in listed:
        stat = file.path.stat()
        if now - stat.st_mtime < config.nightly.settle_s:
            waiting += 1
            continue
        before = known.get(str(file.path))
        same = before is not None and (before.size, before.mtime_ns) == (
            stat.st_size,
            stat.st_mtime_ns,
        )
        found.append(before if same and before else _read(file))
    if waiting:
        note(
            f"{waiting} file(s) changed less than {config.nightly.settle_s:g} s ago and wait for "
            "the next night (nightly.settle_s)"
        )
    return found


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts step-9 before step-10."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name) if p]


def _in_folder(config: Config, place: Path, now: float, note: Note) -> list[Checkpoint]:
    if not place.is_dir():
        raise ConfigError(
            f"nightly.checkpoints names {place}, which is no folder. Give folders whose folders "
            "are checkpoints, as a trainer writes them."
        )
    found = []
    for folder in sorted(place.iterdir(), key=lambda f: natural(f.name)):
        if not (folder / "config.json").is_file():
            continue
        try:
            files = weight_files(folder)
        except ModelError as error:
            note(f"{folder.name} is not complete and waits for another night: {error}")
            continue
        newest = max(file.stat().st_mtime for file in files)
        if now - newest < config.nightly.settle_s:
            note(f"{folder.name} changed a moment ago and waits for another night")
            continue
        weights = digest(model_digest(folder, cache_folder=cache_folder(config)))
        model = {"kind": "folder", "path": str(folder.absolute()), "repo": None, "revision": None}
        found.append(Checkpoint(f"{_safe(folder.name)}-{weights[:8]}", weights, model))
    return found


def _alone(config: Config) -> Checkpoint:
    """The model of the configuration."""
    facts = describe_model(config)
    weights = digest(facts.digest(config))
    return Checkpoint(f"{_safe(facts.name)}-{weights[:8]}", weights, {})


def _read(file: CorpusFile) -> WatchedFile:
    stat = file.path.stat()
    return WatchedFile(str(file.path), stat.st_size, stat.st_mtime_ns, file_digest(file.path))


def _safe(name: str) -> str:
    """A name that can be a folder's, on any store."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def by_path(files: Sequence[WatchedFile]) -> dict[str, WatchedFile]:
    """Files by their path."""
    return {file.path: file for file in files}
