"""Separators, special tokens, and tokens as people read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bathyscope.errors import ModelError
from bathyscope.models.tokenizers import (
    load_tokenizer,
    separator_id,
    special_ids,
    token_strings,
    tokenizer_digest,
)


def words(**special: str) -> Any:
    """A word-level tokenizer that marks spaces as SentencePiece does."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁deep": 3, "▁sea": 4, "s": 5, "▁▁": 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def test_byte_level_tokens_keep_spaces_and_bytes(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    text = "the deep sea, é <|endoftext|>"
    ids = tokenizer(text).input_ids
    strings = token_strings(tokenizer, ids)
    assert strings[:3] == ["the", " deep", " sea"]
    assert strings[-1] == "<|endoftext|>"
    # The two bytes of é are two tokens here, and each alone is no character.
    assert strings.count("\ufffd") == 2
    assert "".join(s for s in strings if s != "\ufffd") == text.replace("é", "")


def test_sentencepiece_tokens_keep_their_space() -> None:
    tokenizer = words(unk_token="<unk>")
    assert token_strings(tokenizer, [3, 4, 5, 6]) == [" deep", " sea", "s", "  "]
    assert token_strings(tokenizer, []) == []


def test_id_outside_the_vocabulary() -> None:
    with pytest.raises(ModelError, match=r"Token id 99 is not in .* 7 tokens"):
        token_strings(words(), [3, 99])


def test_separator_is_end_of_text_then_bos_then_eos(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    assert tokenizer.bos_token == "<|im_start|>"
    assert separator_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert separator_id(words(bos_token="<s>", eos_token="</s>")) == 1
    assert separator_id(words(eos_token="</s>")) == 2
    with pytest.raises(ModelError, match=r"neither '<\|endoftext\|>' nor"):
        separator_id(words())


def test_special_ids(tokenizer_folder: Path) -> None:
    assert special_ids(load_tokenizer(tokenizer_folder)) == {0, 1}
    assert special_ids(words()) == set()
    assert special_ids(words(eos_token="</s>")) == {2}


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="holds no tokenizer"):
        tokenizer_digest(tmp_path / "absent")


def test_damaged_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(tmp_path)


def test_digest_follows_the_content(tokenizer_folder: Path, tmp_path: Path) -> None:
    for file in tokenizer_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert tokenizer_digest(tmp_path) == tokenizer_digest(tokenizer_folder)
    (tmp_path / "README.md").write_text("no part of it")
    assert tokenizer_digest(tmp_path) == tokenizer_digest(tokenizer_folder)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert tokenizer_digest(tmp_path) != tokenizer_digest(tokenizer_folder)
