"""Pairs of prompts from a file, and as tokens of the model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bathyscope.attribution.nodes import Pairs
from bathyscope.config import Config
from bathyscope.config.attribute import AttributeConfig
from bathyscope.errors import ConfigError
from bathyscope.values import Json


@dataclass(frozen=True)
class Pair:
    """One line of the file."""

    id: str
    clean: str
    corrupted: str
    answer: str | None
    wrong: str | None


def read_pairs(config: Config) -> list[Pair]:
    """The pairs of the file. Raises `ConfigError` for lines that are none, and for an id twice."""
    path = Path(config.attribute.pairs or "")
    if not path.is_file():
        raise ConfigError(f"attribute.pairs is {str(path)!r}, and there is no such file.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            found.append(_pair(line, f"{path}, line {number}", number))
    if not found:
        raise ConfigError(f"attribute.pairs is {str(path)!r}, which holds no pairs.")
    ids = [pair.id for pair in found]
    again = next((i for i in ids if ids.count(i) > 1), None)
    if again is not None:
        raise ConfigError(f"Two pairs have the id {again!r}. Give each its own.")
    return found


def _pair(line: str, where: str, number: int) -> Pair:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: {error.msg}. Wanted JSON.") from error
    given: Json = record if isinstance(record, dict) else {}
    clean, corrupted = given.get("clean"), given.get("corrupted")
    if not (isinstance(clean, str) and clean and isinstance(corrupted, str) and corrupted):
        raise ConfigError(
            f"{where} has no texts under 'clean' and 'corrupted'. Wanted both, and for most "
            "metrics 'answer' and 'wrong', a token each, such as ' Paris'."
        )
    named = str(given.get("id") or number)
    return Pair(named, clean, corrupted, given.get("answer"), given.get("wrong"))


def tokens_of(pair: Pair, tokenizer: Any, settings: AttributeConfig) -> Pairs:
    """A pair as tokens. Raises `ConfigError` with the pair's id for what cannot be one."""

    def listed(text: str | None) -> list[str] | None:
        return None if text is None else [text]

    try:
        return Pairs.of_texts(
            tokenizer,
            [pair.clean],
            [pair.corrupted],
            answers=listed(pair.answer),
            wrong=listed(pair.wrong),
            align=settings.align,  # type: ignore[arg-type]
        )
    except ConfigError as error:
        raise ConfigError(f"The pair {pair.id!r}: {error}") from error
