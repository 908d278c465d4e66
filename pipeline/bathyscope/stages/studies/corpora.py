"""Which corpus each member reads: one for each tokenizer, cut from the same text.

That of the study lies in its run. A member with another tokenizer reads one of its own tokenizer's,
in `corpora/<digest>` beside: of the same documents in the same order, split in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bathyscope.config import Config
from bathyscope.errors import ConfigError, MissingArtifact
from bathyscope.models.tokenizers import load_tokenizer, tokenizer_digest
from bathyscope.runs.run import CORPUS, Run
from bathyscope.stages.inputs import is_of_images, model_folder
from bathyscope.stages.studies.aligned_text import require_offsets
from bathyscope.stages.studies.member import Member

CORPORA = "corpora"
_DIGITS = 16


def with_corpora(config: Config, members: Sequence[Member]) -> list[Member]:
    """Listed members with the run whose corpus each reads, None for that of the study.

    The study's is by the tokenizer of the corpus that is there, else of the first member. Raises
    `ConfigError` for text that other tokenizers cannot read.
    """
    if is_of_images(config) or not members:
        return list(members)
    digests = [_tokenizer(config, member) for member in members]
    own = _made_with(config) or digests[0]
    found = [replace(m, corpus=_run(config, d, own)) for m, d in zip(members, digests, strict=True)]
    others = [member.name for member in found if member.corpus]
    if others and (config.data.run is not None or "tokens_bin" in _kinds(config)):
        given = f"data.run is {config.data.run}" if config.data.run else "data.kind is tokens_bin"
        raise ConfigError(
            f"{given}, which holds tokens of one tokenizer, and {', '.join(others)} of the family "
            "have another. Text is wanted: name its source by data.kind and what belongs to it, or "
            "leave these models out."
        )
    return found


def corpora_of(members: Sequence[Member]) -> list[Member]:
    """One member for each corpus that is read, the study's first."""
    first: dict[str, Member] = {}
    for member in members:
        first.setdefault(member.corpus or "", member)
    return [first[run] for run in sorted(first)]


def check_tokenizers(name: str, by_spans: bool, members: Sequence[Member]) -> None:
    """Raise `ConfigError` for models of several tokenizers in a study that has no spans of text."""
    readers = corpora_of(members)
    if len(readers) < 2 or by_spans:
        return
    groups = [[m.name for m in members if m.corpus == reader.corpus] for reader in readers]
    raise ConfigError(
        f"The family of {name} has models of {len(readers)} tokenizers: "
        f"{'; '.join(', '.join(group) for group in groups)}. It compares tokens and losses per "
        "token, which wants one tokenizer; only universality compares other ones, by spans of "
        "text. Choose models of one by family.models."
    )


def check_offsets(config: Config, members: Sequence[Member]) -> None:
    """Raise `ModelError` for models of several tokenizers, of which one does not say where tokens
    lie."""
    readers = corpora_of(members)
    for reader in readers if len(readers) > 1 else []:
        own = replace(config, model=reader.model)
        require_offsets(load_tokenizer(model_folder(own)), reader.name)


def _tokenizer(config: Config, member: Member) -> str | None:
    """None for modules, which come without a folder."""
    if member.model.kind == "module":
        return None
    return tokenizer_digest(model_folder(replace(config, model=member.model)))


def _made_with(config: Config) -> str | None:
    try:
        found = Run(config.url).manifest(CORPUS).identity.get("tokenizer")
    except MissingArtifact:
        return None
    return None if found is None else str(found)


def _run(config: Config, digest: str | None, own: str | None) -> str | None:
    if digest is None or digest == own:
        return None
    name = digest.removeprefix("sha256:")[:_DIGITS]
    return f"{config.url.rstrip('/')}/{CORPORA}/{name}"


def _kinds(config: Config) -> set[str]:
    return {config.data.kind, *config.data.also}
