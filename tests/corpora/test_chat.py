"""Conversations: one text, and whose each character is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bathyscope.corpora.chat import Message, chat, rendered
from bathyscope.errors import CorpusError

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hi."},
]


def render(messages: Sequence[Message]) -> str:
    return "".join(f"<{m['role']}>{m['content']}\n" for m in messages)


def written(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def read(path: Path, key: str = "messages", id_key: str | None = None) -> list[object]:
    return list(chat(str(path), render, messages_key=key, id_key=id_key))


def test_turns_cut_the_text_where_the_messages_end(tmp_path: Path) -> None:
    path = written(tmp_path / "talk.jsonl", {"messages": TALK, "id": "a"}, {"messages": []})
    (found,) = read(path)
    assert found.id == "talk.jsonl:1"
    assert found.text == "<system>Be brief.\n<user>Hello?\n<assistant>Hi.\n"
    parts, start = [], 0
    for role, stop in found.turns:
        parts.append((role, found.text[start:stop]))
        start = stop
    assert parts == [
        ("system", "<system>Be brief.\n"),
        ("user", "<user>Hello?\n"),
        ("assistant", "<assistant>Hi.\n"),
    ]
    assert read(path, id_key="id")[0].id == "a"


def test_a_template_that_looks_ahead_is_refused() -> None:
    def ahead(messages: Sequence[Message]) -> str:
        return f"{len(messages)}:{render(messages)}"

    with pytest.raises(CorpusError, match=r"talk:1: the chat template writes the first 1 messages"):
        rendered(TALK, ahead, "talk:1")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, r"no list of messages under 'messages'; it has text"),
        ({"messages": "x"}, "no list of messages"),
        ([1], "no list of messages under 'messages'; it has list"),
        ({"messages": [{"role": "user"}]}, "role and content were wanted"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "has the role 'boss'. One of system,"),
    ],
)
def test_lines_that_are_no_conversation_are_named(tmp_path: Path, row: object, said: str) -> None:
    with pytest.raises(CorpusError, match=said):
        read(written(tmp_path / "talk.jsonl", row))
