"""Documents from a dataset of the Hugging Face hub, or a local one that `datasets` can load.

`datasets` is an optional dependency and is imported when a dataset is opened. Code that comes
with a dataset is never run.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType

from bathyscope.corpora.documents import Document
from bathyscope.corpora.rows import row_document
from bathyscope.errors import CorpusError, DependencyError

logger = logging.getLogger(__name__)

_COMMIT = re.compile("[0-9a-f]{40}")


def hf_dataset(
    name: str,
    *,
    split: str,
    text_key: str = "text",
    revision: str | None = None,
    config_name: str | None = None,
    streaming: bool = True,
) -> Iterator[Document]:
    """Read the rows of one split in the dataset's own order.

    An id is "name/config:split:row number" counted from 0, so give a commit as `revision` (see
    `resolved_revision`) when ids must stay. Rows without text are left out and counted in the log.

    Raises `DependencyError` without `datasets`, and `CorpusError` for a dataset that cannot be
    loaded and for a first row without `text_key` (the message lists the columns).
    """
    datasets = _datasets(name)
    try:
        rows = datasets.load_dataset(
            name, config_name, split=split, revision=revision, streaming=streaming
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CorpusError(
            f"The dataset '{name}' (configuration {config_name}, split '{split}', revision "
            f"{revision}) cannot be loaded: {error}"
        ) from error
    prefix = f"{name}/{config_name}:{split}" if config_name else f"{name}:{split}"
    return row_documents(rows, prefix=prefix, text_key=text_key)


def row_documents(
    rows: Iterable[Mapping[str, object]], *, prefix: str, text_key: str
) -> Iterator[Document]:
    """Turn rows into documents with the ids "prefix:0", "prefix:1", …

    The first row is read at once, so a wrong `text_key` is an error before any other work.
    Raises `CorpusError` when there is no row, and as `row_document` does.
    """
    iterator = iter(rows)
    try:
        first = next(iterator)
    except StopIteration:
        raise CorpusError(f"{prefix} has no rows. Choose another split or configuration.") from None
    row_document(first, f"{prefix}:0", text_key=text_key)
    return _documents(itertools.chain([first], iterator), prefix=prefix, text_key=text_key)


def resolved_revision(name: str, revision: str | None) -> str | None:
    """Return the commit that a branch, a tag or None (the main branch) stands for now.

    Returns `revision` itself for a full commit hash, for a local folder, and, with a warning, when
    the hub does not answer. Raises `DependencyError` without `datasets`.
    """
    _datasets(name)
    if os.path.isdir(name) or (revision is not None and _COMMIT.fullmatch(revision)):
        return revision
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, revision=revision).sha
    # Which class a failed connection raises changes with the hub client's HTTP library. A dataset
    # that does not exist is an error of its own when it is loaded, right after this.
    except Exception as error:
        logger.warning(
            "the hub does not say which commit revision %s of '%s' is, so it is recorded as given "
            "(%s)",
            revision,
            name,
            error,
        )
        return revision


def _datasets(name: str) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise DependencyError(
            f"Reading the dataset '{name}' needs the package 'datasets', which is not installed. "
            "Install it with: pip install 'bathyscope[hf]'"
        ) from error
    return datasets


def _documents(
    rows: Iterable[Mapping[str, object]], *, prefix: str, text_key: str
) -> Iterator[Document]:
    num_left_out = 0
    for number, row in enumerate(rows):
        document = row_document(row, f"{prefix}:{number}", text_key=text_key)
        if document is None:
            num_left_out += 1
        else:
            yield document
    if num_left_out:
        logger.info("left out %d rows without text of %s", num_left_out, prefix)
