"""ladder, second part: the corpus, in tokens of the ladder's own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bathyscope.config import Config
from bathyscope.runs.work import Begun, Work
from bathyscope.stages import corpus
from bathyscope.stages.ladder_tokenizer import with_tokenizer
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.values import Json, Receipt, Unit


def units(config: Config) -> Work:
    """The unit of a corpus with that tokenizer."""
    return corpus.units(with_tokenizer(config))


def open(config: Config, work: Work) -> Any:
    """What the unit needs, with a copy of the tokenizer on this machine."""
    return corpus.open(with_tokenizer(config), work)


def run(unit: Unit, context: Any, guard: Guard) -> Outcome:
    """Read, deduplicate, split, tokenise, pack and write everything."""
    return corpus.run(unit, context, guard)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Publish the corpus."""
    return corpus.finish(config, begun, receipts)
