"""Training a byte-level vocabulary, and what its tokens stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bathyscope.errors import ModelError
from bathyscope.models.bpe import token_bytes, tokenizer_files, train_bpe, write_files
from bathyscope.models.tokenizers import load_tokenizer, separator_id

STRANGE = "naïve — ✓ \t\n  tabs, 数字 0x1F600 😀"


def test_every_text_comes_back_and_the_separator_is_token_0(
    texts: list[str], tmp_path: Path
) -> None:
    folder = write_files(tokenizer_files(train_bpe(texts, vocabulary=400)), tmp_path / "tokenizer")
    tokenizer = load_tokenizer(folder)
    assert len(tokenizer) == 400
    assert separator_id(tokenizer) == tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    for text in (texts[0], STRANGE):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_bytes_of_tokens_add_up_to_those_of_the_text(texts: list[str]) -> None:
    tokenizer = train_bpe(texts, vocabulary=400)
    lengths = torch.tensor(token_bytes(tokenizer))
    assert lengths[0] == 0
    assert (lengths[1:] >= 1).all()
    for text in (texts[0], STRANGE):
        assert int(lengths[tokenizer(text).input_ids].sum()) == len(text.encode())


def test_the_same_texts_give_the_same_files(texts: list[str]) -> None:
    one, other = (tokenizer_files(train_bpe(texts[:20], vocabulary=300)) for _ in range(2))
    assert one == other


def test_vocabularies_that_cannot_be(texts: list[str]) -> None:
    with pytest.raises(ModelError, match=r"of 256 tokens was asked for; the 256 bytes"):
        train_bpe(texts, vocabulary=256)
    with pytest.raises(ModelError, match=r"gives a vocabulary of \d+ tokens, and 5000 were"):
        train_bpe(["a few words of text"], vocabulary=5000)
