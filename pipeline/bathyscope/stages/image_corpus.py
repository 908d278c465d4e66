"""Pictures become items of one size, split before anything else sees them.

A picture is dropped when its pixels were seen before, given to train or held out by a hash of its
pixels, and cut: to its middle, or to random squares. All squares of a picture are on its side. What
is held in memory is the table of pictures and one unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bathyscope.config import Config
from bathyscope.corpora.images import Picture, open_images, random_boxes, resized
from bathyscope.corpora.split import Split, split_of
from bathyscope.corpora.stable_hash import stable_hash
from bathyscope.errors import CorpusError
from bathyscope.runs.corpus import DOCUMENT, IMAGES, MASK
from bathyscope.runs.run import CORPUS
from bathyscope.runs.tables import to_parquet
from bathyscope.runs.work import Work
from bathyscope.stages.items import ItemWriter, closed
from bathyscope.stages.layout import Column
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.objects import Objects
from bathyscope.values import HELD_OUT, SPLITS, TRAIN, Json, Unit, UnitPlan

NAME = "corpus"
SEMANTICS = 1


@dataclass
class ImageContext:
    """What the unit needs."""

    config: Config
    work: Work
    objects: Objects


@dataclass
class _Taken:
    """Pictures that were kept, and items of each split."""

    names: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    items: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    seen: int = 0
    duplicates: int = 0


def units(config: Config) -> Work:
    """One unit, identified by the names and sizes of the files and how pictures are cut."""
    data = config.data
    _, source = _source(config)
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "source": source,
        "image_size": data.image_size,
        "crops": data.crops,
        "train_images": data.train_images,
        "held_out_images": data.held_out_images,
        "held_out_share": data.held_out_share,
        "seed": data.seed,
        "shuffle": data.shuffle,
    }
    return Work(NAME, CORPUS, identity, UnitPlan((("all", 0, 1),), 1), unit_name="passes")


def open(config: Config, work: Work) -> ImageContext:
    """The store."""
    return ImageContext(config, work, Objects(config.url).at(CORPUS))


def run(unit: Unit, context: ImageContext, guard: Guard) -> Outcome:
    """Read, deduplicate, split, cut and write all pictures."""
    data, name = context.config.data, context.work.segment.name
    taken = _Taken()
    writers = {split: _writer(context, f"{name}-{split}", split, guard) for split in SPLITS}
    for split, item in _items(context.config, taken, guard):
        writers[split].add(item)
    for split in SPLITS:
        _check_enough(taken, split)
    segments, count = closed(writers)
    key = f"documents/{name}.parquet"
    table = {"name": taken.names, "split": taken.splits, "digest": taken.digests}
    context.objects.put(key, to_parquet(pa.table(table)))
    figures = {
        "documents_key": key,
        "documents": len(taken.names),
        "documents_read": taken.seen,
        "duplicates": taken.duplicates,
        "segments": segments,
        "train_images": taken.items[TRAIN],
        "held_out_images": taken.items[HELD_OUT],
        "image_size": data.image_size,
        "items": IMAGES,
    }
    return Outcome(valid=count, figures=figures)


def facts(config: Config) -> Json:
    """What the manifest says besides the figures."""
    what = f"{config.data.crops} random squares" if config.data.crops else "the middle"
    return {
        "sequence_length": 1,
        "policy": f"Of each picture {what}, resized to {config.data.image_size} pixels.",
    }


def facts_for_plan(config: Config) -> str:
    """One line for the plan: which pictures, how many."""
    data = config.data
    count = f"{data.train_images:,}" if data.train_images else "all"
    return f"{data.kind} ({', '.join(data.paths)}), {count} training images"


def _source(config: Config) -> tuple[Iterator[Picture], Json]:
    data = config.data
    seed = data.seed if data.shuffle else None
    pictures, record = open_images(data.kind, list(data.paths), seed=seed)
    return pictures, record


def _items(
    config: Config, taken: _Taken, guard: Guard
) -> Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]:
    """Items of the pictures that are kept, until both splits have as many as are wanted."""
    data = config.data
    wanted = {TRAIN: data.train_images, HELD_OUT: data.held_out_images}
    pictures, _ = _source(config)
    known: set[str] = set()
    for picture in pictures:
        taken.seen += 1
        digest = picture.digest
        side = split_of(digest, held_out_share=data.held_out_share, seed=data.seed)
        split = HELD_OUT if side is Split.HELD_OUT else TRAIN
        full = [s for s in SPLITS if wanted[s] and taken.items[s] >= wanted[s]]
        if len(full) == len(SPLITS):
            return
        if digest in known:
            taken.duplicates += 1
        elif split not in full:
            known.add(digest)
            for item in _cut(picture, len(taken.names), config):
                if not wanted[split] or taken.items[split] < wanted[split]:
                    taken.items[split] += 1
                    yield split, item
            taken.names.append(picture.name)
            taken.splits.append(split)
            taken.digests.append(digest)
        guard.progress(_filled(taken, wanted), f"{sum(taken.items.values()):,} images")


def _cut(picture: Picture, number: int, config: Config) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The items of a picture: array -> row."""
    size, crops = config.data.image_size, config.data.crops
    height, width = picture.pixels.shape[:2]
    # Of the pixels, so that the squares do not depend on what else is in the corpus.
    seed = stable_hash(f"crops:{config.data.seed}:{picture.digest}")
    boxes: list[tuple[int, int, int, int] | None] = [None]
    if crops:
        boxes = list(random_boxes(height, width, count=crops, seed=seed))
    for box in boxes:
        yield {
            IMAGES: resized(picture.pixels, size, box),
            DOCUMENT: np.array([number], dtype=np.uint32),
            MASK: np.zeros(1, dtype=np.uint8),
        }


def _writer(context: ImageContext, name: str, split: str, guard: Guard) -> ItemWriter:
    data = context.config.data
    size = data.image_size
    return ItemWriter(
        context.objects,
        name,
        [
            Column(IMAGES, (size, size, 3), "uint8", "uint8"),
            Column(DOCUMENT, (1,), "uint32", "uint32"),
            Column(MASK, (1,), "uint8", "uint8"),
        ],
        expected_items=(data.train_images if split == TRAIN else data.held_out_images) or 2**62,
        store=context.config.store,
        check=guard.check,
    )


def _check_enough(taken: _Taken, split: str) -> None:
    if not taken.items[split]:
        raise CorpusError(
            f"None of {taken.seen} pictures ({taken.duplicates} of them repeated) is "
            f"{split.replace('_', '-')}. Give more pictures, or another data.held_out_share or "
            "data.seed."
        )


def _filled(taken: _Taken, wanted: dict[str, int]) -> float:
    shares = [min(taken.items[s] / wanted[s], 1.0) for s in wanted if wanted[s]]
    return min(shares, default=0.0)
