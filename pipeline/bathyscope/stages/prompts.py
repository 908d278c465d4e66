"""Prompts of a command: from the settings or a file, as tokens of the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.models.tokenizers import load_tokenizer, separator_id
from bathyscope.stages.inputs import model_folder


@dataclass(frozen=True)
class Prompt:
    """One prompt."""

    id: str
    text: str
    tokens: tuple[int, ...]
    """The separator of documents in front of them, where it was asked for."""
    logits: tuple[int, ...] = ()
    """Next tokens to explain; empty for the most probable."""


def read_prompts(config: Config) -> list[Prompt]:
    """The prompts of `config.attribute`.

    Raises `ConfigError` for none, for an empty one, for one that is longer than the model's
    context, for ids that come twice, and for a next token that is several tokens.
    """
    settings = config.attribute
    records = _records(settings.prompts, settings.text_key)
    if not records:
        raise ConfigError(
            "attribute.prompts is not set. Give a text, a list of texts or a .jsonl file: "
            "bathyscope attribute … attribute.prompts=['The capital of France is']"
        )
    tokenizer = load_tokenizer(model_folder(config))
    before = [separator_id(tokenizer)] if settings.separator else []
    prompts = [_prompt(record, tokenizer, before) for record in records]
    ids = [prompt.id for prompt in prompts]
    again = next((i for i in ids if ids.count(i) > 1), None)
    if again is not None:
        raise ConfigError(f"Two prompts have the id {again!r}. Give each its own.")
    return prompts


def check_lengths(prompts: Sequence[Prompt], context_length: int | None) -> None:
    """Raise `ConfigError` for a prompt that is longer than the model's context."""
    for prompt in prompts:
        if context_length is not None and len(prompt.tokens) > context_length:
            raise ConfigError(
                f"The prompt {prompt.id!r} has {len(prompt.tokens)} tokens, and the model was made "
                f"for at most {context_length}. Give a shorter one."
            )


def _records(prompts: str | list[str], text_key: str) -> list[dict[str, Any]]:
    if isinstance(prompts, str) and prompts.endswith(".jsonl"):
        return _of_file(Path(prompts), text_key)
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    return [{"text": text} for text in texts if text]


def _of_file(path: Path, text_key: str) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ConfigError(f"attribute.prompts is {str(path)!r}, and there is no such file.")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}, line {number}: {error.msg}. Wanted JSON.") from error
        if not isinstance(found, dict) or not isinstance(found.get(text_key), str):
            raise ConfigError(
                f"{path}, line {number} has no text under {text_key!r}. Name its key with "
                "attribute.text_key."
            )
        records.append({**found, "text": found[text_key]})
    return records


def _prompt(record: dict[str, Any], tokenizer: Any, before: list[int]) -> Prompt:
    text = record["text"]
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise ConfigError(f"The prompt {text!r} has no tokens. Give it some text.")
    named = str(record.get("id") or xxhash.xxh3_64_hexdigest(text.encode("utf-8", "surrogatepass")))
    logits = tuple(_one_token(word, tokenizer) for word in record.get("logits") or ())
    return Prompt(named, text, (*before, *(int(t) for t in tokens)), logits)


def _one_token(word: str | int, tokenizer: Any) -> int:
    if isinstance(word, int):
        return word
    found = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(found) != 1:
        raise ConfigError(
            f"The next token {word!r} is {len(found)} tokens. Give one token, with its space in "
            "front: ' Paris'."
        )
    return int(found[0])
