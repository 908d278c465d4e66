"""Labels that any text has, for probes: of the token itself, of what came before, of what comes.

Texts of tokens flow in, true or false for every position flows out. A label of the first group is
a function of the token alone; one of the others needs what the model read before, or must guess
what comes. What came before counts from the beginning of the sequence or of the document within
it, whichever is nearer, as the model sees no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bathyscope.errors import ConfigError

Bools = NDArray[np.bool_]
Integers = NDArray[Any]
TOKEN, CONTEXT = "token", "context"
OPENING, CLOSING = "([{", ")]}"
LATE = 40
"""Characters from the beginning of a line to what is called late in it."""
INDENTED = 2


class Label(NamedTuple):
    """What is asked of a position."""

    name: str
    group: str
    """`token`: the current token decides it; `context`: it does not."""
    words: str


TOKEN_LABELS = (
    Label("begins_word", TOKEN, "the token begins with a space"),
    Label("letters", TOKEN, "the token is letters, with spaces or without"),
    Label("capital", TOKEN, "the first letter of the token is a capital"),
    Label("digit", TOKEN, "the token has a digit"),
    Label("punctuation", TOKEN, "the token has a sign that is no letter, digit or space"),
    Label("line_end", TOKEN, "the token has the end of a line"),
)
CONTEXT_LABELS = (
    Label("in_brackets", CONTEXT, "a bracket that opened before is open after the token"),
    Label("in_quotes", CONTEXT, "a double quote is open on the line after the token"),
    Label("in_backticks", CONTEXT, "a backtick is open on the line after the token"),
    Label("repeated", CONTEXT, "the token came before in the document"),
    Label("late_in_line", CONTEXT, f"{LATE} characters or more of the line came before the token"),
    Label("indented", CONTEXT, f"the line begins with {INDENTED} spaces or more"),
    Label("next_begins_word", CONTEXT, "the next token begins with a space"),
    Label("next_capital", CONTEXT, "the first letter of the next token is a capital"),
    Label("next_punctuation", CONTEXT, "the next token has a sign"),
    Label("next_line_end", CONTEXT, "the next token has the end of a line"),
)
LABELS = (*TOKEN_LABELS, *CONTEXT_LABELS)
_OF_TOKEN: dict[str, Callable[[str], bool]] = {
    "begins_word": lambda text: text.startswith(" "),
    "letters": lambda text: text.strip(" ").isalpha(),
    "capital": lambda text: next((c.isupper() for c in text if c.isalpha()), False),
    "digit": lambda text: any(c.isdigit() for c in text),
    "punctuation": lambda text: any(not c.isalnum() and not c.isspace() for c in text),
    "line_end": lambda text: "\n" in text,
}
_NEXT = "next_"


def of_vocabulary(texts: Sequence[str]) -> dict[str, Bools]:
    """The labels of the first group for every token [vocabulary], from their texts."""
    return {
        name: np.fromiter((holds(text) for text in texts), dtype=bool, count=len(texts))
        for name, holds in _OF_TOKEN.items()
    }


def labels_of(
    tokens: Integers, documents: Integers, texts: Sequence[str]
) -> tuple[dict[str, Bools], Bools]:
    """Every label of sequences [items, P], and where all are known [items, P].

    `texts` are those of the vocabulary. Labels of the next token are unknown at the last position.
    Raises `ConfigError` for a token that is not in the vocabulary.
    """
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(texts):
        raise ConfigError(
            f"Tokens run from {tokens.min()} to {tokens.max()}, and the vocabulary has "
            f"{len(texts)}. Was the text cut by another tokenizer?"
        )
    vocabulary = of_vocabulary(texts)
    found = {name: table[tokens] for name, table in vocabulary.items()}
    for label in CONTEXT_LABELS:
        found[label.name] = np.zeros(tokens.shape, dtype=bool)
        if label.name.startswith(_NEXT):
            now = found[label.name.removeprefix(_NEXT)]
            found[label.name][:, :-1] = now[:, 1:]
    for item, (row, owners) in enumerate(zip(tokens.tolist(), documents.tolist(), strict=True)):
        _read(row, owners, texts, {name: values[item] for name, values in found.items()})
    known = np.ones(tokens.shape, dtype=bool)
    known[:, -1] = False
    return found, known


def _read(
    row: Sequence[int], owners: Sequence[int], texts: Sequence[str], out: dict[str, Bools]
) -> None:
    """Read a sequence from its beginning and note what is open, where, and what came before."""
    place, before = _Place(), -1
    for position, (token, owner) in enumerate(zip(row, owners, strict=True)):
        if owner != before:
            place, before = _Place(), owner
        out["late_in_line"][position] = place.column >= LATE
        out["repeated"][position] = token in place.seen
        place.seen.add(token)
        for character in texts[token]:
            place.read(character)
        out["in_brackets"][position] = place.depth > 0
        out["in_quotes"][position] = place.open['"']
        out["in_backticks"][position] = place.open["`"]
        out["indented"][position] = place.indent >= INDENTED


class _Place:
    """Where a reader stands in a document."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.depth = 0
        self._begin_line()

    def read(self, character: str) -> None:
        if character == "\n":
            self._begin_line()
            return
        if self.indent == self.column and character == " ":
            self.indent += 1
        self.column += 1
        if character in OPENING:
            self.depth += 1
        elif character in CLOSING:
            self.depth = max(self.depth - 1, 0)
        elif character in self.open:
            self.open[character] = not self.open[character]

    def _begin_line(self) -> None:
        self.column = self.indent = 0
        self.open = {'"': False, "`": False}
