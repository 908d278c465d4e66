"""Conversations from JSON Lines files: who says what stays known, down to each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bathyscope.corpora.documents import Document, well_formed
from bathyscope.corpora.file_list import Paths
from bathyscope.corpora.jsonl import jsonl_files, jsonl_rows
from bathyscope.corpora.masks import ROLES
from bathyscope.errors import CorpusError

Message = Mapping[str, str]
Render = Callable[[Sequence[Message]], str]
"""Messages -> the text that the model's chat template makes of them."""


class Turn(NamedTuple):
    """Characters of a conversation's text, and who says them."""

    role: str
    stop: int
    """One past the last; each turn begins where the one before it ends."""


def chat(
    paths: Paths, render: Render, *, messages_key: str, id_key: str | None
) -> Iterator[Document]:
    """Read conversations from files or globs: each line an object with a list of messages.

    A message has a `role` (system, user, assistant or tool) and a `content`. The text of a document
    is what the template makes of all its messages, and `turns` say which characters are whose: what
    a template puts before a message belongs to it. Raises `CorpusError` for a line that is none,
    and for a template whose text of the first messages does not begin the text of all.
    """
    for file in jsonl_files(paths):
        for number, row in jsonl_rows(file):
            place = f"{file.name}:{number}"
            messages = _messages(row, messages_key, place)
            if messages:
                name = place if id_key is None else str(_named(row, id_key, place))
                text, turns = rendered(messages, render, place)
                yield Document(well_formed(name), text, turns=turns)


def rendered(
    messages: Sequence[Message], render: Render, place: str
) -> tuple[str, tuple[Turn, ...]]:
    """The text of a conversation, and whose its characters are. Raises `CorpusError`."""
    text = render(messages)
    turns = []
    for count, message in enumerate(messages, start=1):
        part = text if count == len(messages) else render(messages[:count])
        if not text.startswith(part):
            raise CorpusError(
                f"{place}: the chat template writes the first {count} messages otherwise than as "
                f"the beginning of all {len(messages)}, so nobody knows whose each token is. Use a "
                "template that does not look ahead, or data=jsonl with the finished text."
            )
        turns.append(Turn(message["role"], len(part)))
    return text, tuple(turns)


def _named(row: Any, id_key: str, place: str) -> object:
    if id_key not in row:
        raise CorpusError(f"{place} has no '{id_key}'; it has {', '.join(row)}. Set data.id_key.")
    return row[id_key]


def _messages(row: Any, key: str, place: str) -> list[Message]:
    messages = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(messages, list):
        have = ", ".join(row) if isinstance(row, Mapping) else type(row).__name__
        raise CorpusError(
            f"{place} has no list of messages under '{key}'; it has {have}. Set "
            "data.messages_key to the one that holds them."
        )
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise CorpusError(f"{place}: a message is {message!r}; role and content were wanted.")
        if message.get("role") not in ROLES:
            raise CorpusError(
                f"{place}: a message has the role {message.get('role')!r}. One of "
                f"{', '.join(ROLES)} is wanted."
            )
    return [{**message, "content": well_formed(message["content"])} for message in messages]
