"""corpus: what a model is shown, split before anything else sees it: token sequences or images.

One unit: whether a document repeats others depends on all before it. Each split is a segment of
`corpus.zarr`. With `data.run` it has no items of its own and points at those of another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bathyscope.config import Config
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages import image_corpus, shared_corpus, text_corpus
from bathyscope.stages.inputs import is_of_images
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.manifests import Segment
from bathyscope.values import Json, Receipt, Unit


def units(config: Config) -> Work:
    """One unit, identified by the source and by everything that decides the items."""
    return _of(config).units(config)


def open(config: Config, work: Work) -> Any:
    """What the unit needs."""
    return _of(config).open(config, work)


def run(unit: Unit, context: Any, guard: Guard) -> Outcome:
    """Read, deduplicate, split, cut and write everything."""
    return _of(context.config).run(unit, context, guard)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Publish the two segments that the unit wrote."""
    figures = dict(receipts[0].figures)
    segments = tuple(Segment.from_dict(s) for s in figures.pop("segments"))
    facts = {**figures, **_of(config).facts(config)}
    publish(begun, facts, segments=segments)
    return facts


def facts_for_plan(config: Config) -> str:
    """One line for the plan: what, and how much of it."""
    return _of(config).facts_for_plan(config)


def _of(config: Config) -> Any:
    if config.data.run is not None:
        return shared_corpus
    return image_corpus if is_of_images(config) else text_corpus
