"""ladder, first part: a small tokenizer, trained on the training text of the ladder.

One unit. Held-out documents and near-duplicates are left out as the corpus leaves them out.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from bathyscope.config import Config
from bathyscope.corpora.order import shuffled
from bathyscope.corpora.sources import open_sources
from bathyscope.models.bpe import tokenizer_files, train_bpe, write_files
from bathyscope.models.rungs import rung_config
from bathyscope.runs.run import Run
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.inputs import cache_folder, text_sources
from bathyscope.stages.ladder_models import models_of
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stages.text_corpus import Taken, kept_documents
from bathyscope.stores.objects import Objects
from bathyscope.values import HELD_OUT, TRAIN, Json, Receipt, Unit, UnitPlan

NAME = "tokenizer"
SEMANTICS = 1
TOKENIZER = "tokenizer"
_FILES = "files"
_CHECK_EVERY = 1000


@dataclass
class Context:
    """The text, and where the tokenizer goes."""

    config: Config
    objects: Objects


def units(config: Config) -> Work:
    """One unit, identified by the source and by what decides the training text."""
    _, source = open_sources(text_sources(config), cache_folder(config))
    data = config.data
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "source": source,
        "vocabulary": config.ladder.vocabulary,
        "characters": config.ladder.tokenizer_chars,
        "held_out_share": data.held_out_share,
        "seed": data.seed,
        "shuffle": data.shuffle,
    }
    return Work(NAME, TOKENIZER, identity, UnitPlan((("all", 0, 1),), 1), unit_name="passes")


def open(config: Config, work: Work) -> Context:
    """Nothing is loaded yet."""
    return Context(config, Objects(config.url).at(work.artifact))


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Read training text, train the tokenizer, write its files."""
    config, taken = context.config, Taken()
    tokenizer = train_bpe(_texts(config, taken, guard), vocabulary=config.ladder.vocabulary)
    guard.check()
    files = tokenizer_files(tokenizer)
    for name, data in files.items():
        context.objects.put(f"{_FILES}/{name}", data, fsync=True)
    digests = {name: xxhash.xxh3_128_hexdigest(data) for name, data in files.items()}
    return Outcome(valid=1, figures={"files": digests, "vocabulary": len(tokenizer)})


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Publish the tokenizer."""
    facts = dict(receipts[0].figures)
    publish(begun, facts)
    return facts


def stored_files(config: Config) -> dict[str, bytes]:
    """The files of the run's tokenizer by name. Raises `MissingArtifact` before it is trained."""
    run = Run(config.url)
    names = run.manifest(TOKENIZER).facts["files"]
    return {name: run.objects.get(f"{TOKENIZER}/{_FILES}/{name}") for name in names}


def with_tokenizer(config: Config) -> Config:
    """The configuration with a local folder as its model that holds the ladder's tokenizer.

    The folder describes the first rung, and has no weights: a corpus needs none.
    """
    files = stored_files(config)
    first = models_of(config)[0]
    settings = rung_config(
        first.family,
        first.rung,
        vocabulary=config.ladder.vocabulary,
        context=config.data.sequence_length,
    )
    files["config.json"] = json.dumps(settings.to_dict(), default=str).encode()
    digest = xxhash.xxh3_128_hexdigest(b"\0".join(files[name] for name in sorted(files)))
    folder = cache_folder(config) / f"ladder-tokenizer-{digest}"
    if not folder.is_dir():
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        with suppress(OSError):
            # Another process may have made it meanwhile.
            write_files(files, partial).rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
    model = replace(config.model, kind="folder", path=str(folder), architecture={})
    return replace(config, model=model)


def _texts(config: Config, taken: Taken, guard: Guard) -> Iterator[str]:
    """Training documents in the order of the corpus, until there are enough characters."""
    data, most = config.data, config.ladder.tokenizer_chars
    documents, _ = open_sources(text_sources(config), cache_folder(config))
    ordered = shuffled(documents, data.seed) if data.shuffle else documents
    chars = 0
    for split, document in kept_documents(data, ordered, taken, {TRAIN: 0, HELD_OUT: 0}):
        if taken.seen % _CHECK_EVERY == 0:
            guard.progress(min(chars / most, 1.0), f"{chars / 1e6:.1f} M characters")
        if split == TRAIN:
            chars += len(document.text)
            yield document.text
        if chars >= most:
            return
