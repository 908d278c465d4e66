"""The runs of nights: a corpus for each slice of text, and a run for each checkpoint that reads it.

    slices/<slice>/                     corpus, all of it held out
    extractions/<checkpoint>/<slice>/   activations, latents, features, observations

Both are ordinary runs. The dictionary is read where it lies, and pinned by its digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bathyscope.config import Config
from bathyscope.errors import CorpusError, MissingArtifact
from bathyscope.models.tokenizers import load_tokenizer
from bathyscope.runs.identity import digest
from bathyscope.runs.run import CORPUS, OBSERVATIONS, SHARED, Run
from bathyscope.stages.inputs import model_folder
from bathyscope.stages.nights.ledger import Pair
from bathyscope.stages.nights.watched import Checkpoint, WatchedFile
from bathyscope.stages.text_corpus import documents_of
from bathyscope.values import Json

SLICES, EXTRACTIONS = "slices", "extractions"
STAGES = ("corpus", "harvest", "train", "encode", "describe", "observe")
"""What an extraction goes through; `train` reads the dictionary where it lies."""


def slice_run(config: Config, name: str, files: Sequence[WatchedFile], model: Checkpoint) -> Config:
    """The run that holds the corpus of a slice, cut by the tokenizer of a checkpoint."""
    data = replace(
        config.data,
        paths=[file.path for file in files],
        train_tokens=0,
        held_out_tokens=0,
        held_out_share=1.0,
    )
    return replace(config, url=_at(config, f"{SLICES}/{name}"), data=data, model=model.of(config))


def extraction_run(config: Config, pair: Pair, checkpoint: Checkpoint, weights: str) -> Config:
    """The run in which a checkpoint reads a slice; `weights` is the digest of the dictionary's."""
    data = replace(
        config.data,
        run=_at(config, f"{SLICES}/{pair.slice}"),
        train_tokens=0,
        held_out_tokens=0,
    )
    return replace(
        config,
        url=_at(config, f"{EXTRACTIONS}/{pair.checkpoint}/{pair.slice}"),
        data=data,
        model=checkpoint.of(config),
        dictionary=replace(config.dictionary, digest=weights),
    )


def is_observed(config: Config) -> bool:
    """Whether an extraction is complete, of the slice as it is now.

    None of its stages is asked for then: what it kept of activations and latents may be gone.
    """
    run = Run(config.url)
    try:
        run.manifest(f"{OBSERVATIONS}/{config.dictionary.name}")
        read = run.manifest(CORPUS).identity[SHARED]
        return bool(read == digest(Run(str(config.data.run)).manifest(CORPUS).identity))
    except MissingArtifact:
        return False


def slice_facts(config: Config, name: str, night: int, files: int) -> Json:
    """What the ledger says of a slice."""
    facts = Run(_at(config, f"{SLICES}/{name}")).manifest(CORPUS).facts
    return {
        "night": night,
        "files": files,
        "documents": facts["documents"],
        "duplicates": facts["duplicates"],
        "tokens": facts["held_out_tokens"],
    }


def unreadable(config: Config, files: Sequence[WatchedFile]) -> Iterator[tuple[WatchedFile, str]]:
    """Files that cannot be read as text of the configured kind, each with the reason.

    All of each is read: it is asked only when a slice as a whole has failed.
    """
    tokenizer = load_tokenizer(model_folder(config))
    for file in files:
        own = replace(config, data=replace(config.data, paths=[file.path]))
        try:
            for _ in documents_of(own, tokenizer):
                pass
        except (CorpusError, OSError) as error:
            yield file, f"{type(error).__name__}: {error}"


def _at(config: Config, folder: str) -> str:
    return f"{config.url.rstrip('/')}/{folder}"
