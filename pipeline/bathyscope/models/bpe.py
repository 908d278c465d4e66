"""Trains a byte-level BPE tokenizer, so that a small model need not carry a large vocabulary.

Sennrich et al. 2016 (BPE) on bytes, with GPT-2's rule for cutting text into words (Radford et al.
2019). Every byte is a token, so that any text has tokens and none is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bathyscope.errors import ModelError
from bathyscope.models.tokenizers import END_OF_TEXT

_BYTES = 256


def train_bpe(texts: Iterable[str], *, vocabulary: int) -> Any:
    """A Hugging Face tokenizer of exactly `vocabulary` tokens, `<|endoftext|>` among them as 0.

    The same texts in the same order give the same tokenizer. Raises `ModelError` where
    `vocabulary` has no room for the bytes, or the texts are too few to fill it.
    """
    if vocabulary <= _BYTES:
        raise ModelError(
            f"A byte-level vocabulary of {vocabulary} tokens was asked for; the {_BYTES} bytes and "
            f"{END_OF_TEXT} need {_BYTES + 1} at least."
        )
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size()
    if found != vocabulary:
        raise ModelError(
            f"The text gives a vocabulary of {found} tokens, and {vocabulary} were asked for. Give "
            "more text or a smaller vocabulary."
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """The files that `save_pretrained` writes, by name."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def write_files(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write files into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def token_bytes(tokenizer: Any) -> list[int]:
    """Bytes of text that each token stands for; 0 for special tokens.

    A byte-level vocabulary writes each byte as one character.
    """
    special = set(tokenizer.all_special_ids)
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [0 if number in special else len(word) for number, word in enumerate(words)]
