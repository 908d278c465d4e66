"""Whether the model's folder is the same everywhere and at every stage.

A path says little: each node may hold another checkpoint under it, and a file may be replaced
between two stages. Digests tell, before a weight is loaded.
"""

from __future__ import annotations

import socket
from pathlib import Path

from bathyscope.config import Config
from bathyscope.errors import IdentityMismatch
from bathyscope.models.tokenizers import tokenizer_digest
from bathyscope.runs.identity import difference
from bathyscope.runs.work import Work
from bathyscope.stages.model import ModelFacts
from bathyscope.values import Json


def check_tokenizer(folder: Path, corpus: Json) -> None:
    """Raise `IdentityMismatch` when the corpus was made with another tokenizer than the folder's.

    `corpus` is its identity.
    """
    made_with = corpus.get("tokenizer")
    if made_with is None:
        return
    here = tokenizer_digest(folder)
    if here != made_with:
        raise IdentityMismatch(
            f"The corpus was made with the tokenizer {made_with}, but {folder} holds {here}. Its "
            "token numbers would mean other words. Put the tokenizer back, or make the corpus "
            "again with force=true."
        )


def check_model(config: Config, work: Work, facts: ModelFacts) -> None:
    """Raise `IdentityMismatch` when the model here is not the one that the work was begun with."""
    check_digest(work.identity, config, facts)


def check_digest(identity: Json, config: Config, facts: ModelFacts) -> None:
    """The same for the identity of activations."""
    changed = difference(identity["model"], facts.digest(config))
    if changed:
        raise IdentityMismatch(
            f"{facts.folder} on {socket.gethostname()} is another model than the one that this "
            "run was begun with:\n  " + "\n  ".join(changed) + "\nNothing was computed here. "
            "Give every node the same files."
        )
