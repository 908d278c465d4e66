"""Rows (dictionaries, as JSONL and Hugging Face datasets give them) become documents."""

from __future__ import annotations

from collections.abc import Mapping

from bathyscope.corpora.documents import Document, well_formed
from bathyscope.errors import CorpusError


def row_document(
    row: object, place: str, *, text_key: str, id_key: str | None = None
) -> Document | None:
    """Return the document of one row, or None when its text is empty or white space.

    `place` says where the row is; it is in every error, and is the id when `id_key` is None.
    Raises `CorpusError` when the row is no dictionary, lacks a key (the message lists the keys
    that it has), its text is no string or its id is neither string nor integer.
    """
    if not isinstance(row, Mapping):
        raise CorpusError(
            f"{place} is a {type(row).__name__}; an object with the key '{text_key}' was wanted."
        )
    text = _value(row, text_key, place, setting="text_key")
    if not isinstance(text, str):
        raise CorpusError(
            f"{place} has a {type(text).__name__} under '{text_key}'; text was wanted. "
            f"Its keys are {_names(row)}: set text_key to the one that holds text."
        )
    if id_key is None:
        name: object = place
    else:
        name = _value(row, id_key, place, setting="id_key")
        if not isinstance(name, str | int):
            raise CorpusError(
                f"{place} has a {type(name).__name__} under '{id_key}'; a string or an integer "
                "was wanted. Set id_key to another key, or leave it out to number the rows."
            )
    return Document(well_formed(str(name)), well_formed(text)) if text.strip() else None


def _value(row: Mapping[str, object], key: str, place: str, *, setting: str) -> object:
    if key not in row:
        raise CorpusError(
            f"{place} has no '{key}'; it has {_names(row)}. Set {setting} to one of these."
        )
    return row[key]


def _names(row: Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in row) or "no keys at all"
