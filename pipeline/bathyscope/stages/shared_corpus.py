"""The corpus of another run, read where it lies: the first items of each of its splits.

Several models see the same items, and nothing is stored twice. `corpus.zarr` of this run holds a
manifest alone, which names the other run and the digest of its corpus.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from bathyscope.config import Config
from bathyscope.errors import CorpusError
from bathyscope.runs.corpus import Corpus
from bathyscope.runs.identity import digest
from bathyscope.runs.run import CORPUS, SHARED, Run
from bathyscope.runs.work import Work
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.objects import local_path
from bathyscope.values import HELD_OUT, SPLITS, TRAIN, Json, Unit, UnitPlan

NAME = "corpus"
SEMANTICS = 1


@dataclass
class SharedContext:
    """Which corpus it is."""

    config: Config


def units(config: Config) -> Work:
    """One unit, identified by the other corpus and by how much of it is read.

    Raises `MissingArtifact` where that run has no corpus, and `CorpusError` where it has too little
    of a split or sequences of another length.
    """
    source = _source(config)
    most = _most_items(config, source)
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        SHARED: digest(source.identity),
        "most_items": most,
    }
    if "tokenizer" in source.identity:
        identity["tokenizer"] = source.identity["tokenizer"]
    return Work(NAME, CORPUS, identity, UnitPlan((("all", 0, 1),), 1), unit_name="passes")


def open(config: Config, work: Work) -> SharedContext:
    """Nothing is loaded."""
    return SharedContext(config)


def run(unit: Unit, context: SharedContext, guard: Guard) -> Outcome:
    """Nothing is copied."""
    return Outcome(valid=1, figures={"segments": []})


def facts(config: Config) -> Json:
    """What the manifest says: what the other corpus says of itself, and where it lies."""
    source = _source(config)
    most = _most_items(config, source)
    # Keys and digests of files are those of the other run.
    told = {k: v for k, v in source.facts.items() if not k.endswith(("_key", "_digest"))}
    return {
        **told,
        **{f"{split}_tokens": most.get(split, 0) * source.sequence_length for split in SPLITS},
        SHARED: {
            "run": _place(config),
            "corpus": digest(source.identity),
            "most_items": most,
        },
    }


def facts_for_plan(config: Config) -> str:
    """One line for the plan: what, and how much of it."""
    found = facts(config)
    return (
        f"{config.data.run}: {found['train_tokens']:,} training tokens, "
        f"{found['held_out_tokens']:,} held out, read where they lie"
    )


def _source(config: Config) -> Corpus:
    return Run(_place(config)).corpus


def _place(config: Config) -> str:
    """The other run, by a path that does not depend on where a process was started."""
    run = str(config.data.run)
    path = local_path(run)
    return run if path is None else os.path.abspath(path)


def _most_items(config: Config, source: Corpus) -> dict[str, int]:
    data = config.data
    if source.has_images:
        wanted = {TRAIN: data.train_images, HELD_OUT: data.held_out_images}
        return _most_of_each(source, wanted)
    if data.sequence_length != source.sequence_length:
        raise CorpusError(
            f"data.sequence_length is {data.sequence_length}, and the corpus of {data.run} has "
            f"sequences of {source.sequence_length} tokens. Set "
            f"data.sequence_length={source.sequence_length}."
        )
    tokens = {TRAIN: data.train_tokens, HELD_OUT: data.held_out_tokens}
    return _most_of_each(source, {s: n // source.sequence_length for s, n in tokens.items()})


def _most_of_each(source: Corpus, wanted: dict[str, int]) -> dict[str, int]:
    """Items of every split; one that the other corpus has not is left out where 0 are wanted."""
    there = {found.split for found in source.ranges}
    return {s: _most(source, s, n) for s, n in wanted.items() if n or s in there}


def _most(source: Corpus, split: str, wanted: int) -> int:
    """So many items of a split; all of them for 0. Raises `CorpusError` where there are fewer."""
    have = sum(found.stop - found.start for found in source.ranges if found.split == split)
    if wanted > have:
        raise CorpusError(
            f"{wanted:,} items of the split {split} are wanted, and the corpus that is shared has "
            f"{have:,}. Ask for fewer tokens or images, or make that corpus larger."
        )
    return wanted or have
