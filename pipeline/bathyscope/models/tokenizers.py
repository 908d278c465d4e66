"""Tokenizers: loading, the separator between documents, and tokens as people read them.

Flows in: a local folder. Flows out: a Hugging Face tokenizer, ids, strings, and a digest that
identifies the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from bathyscope.errors import ModelError

END_OF_TEXT = "<|endoftext|>"
# Every file that can change how text becomes ids.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_SENTENCEPIECE_SPACE = "\u2581"


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a local folder; code that comes with it is never run."""
    folder = Path(folder)
    if not _files(folder):
        raise ModelError(
            f"{str(folder)!r} holds no tokenizer. Wanted a local folder with tokenizer.json (or "
            f"tokenizer.model, or vocab.json and merges.txt)."
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The tokenizer in {folder} cannot be loaded: {error}") from error


def separator_id(tokenizer: Any) -> int:
    """Id of the token that parts documents: `<|endoftext|>`, else the first token, else the end's.

    Raises ModelError where the tokenizer has none of them.
    """
    if END_OF_TEXT in tokenizer.get_vocab():
        return int(tokenizer.convert_tokens_to_ids(END_OF_TEXT))
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise ModelError(
        f"This {type(tokenizer).__name__} has neither {END_OF_TEXT!r} nor a bos or eos token, so "
        f"nothing can part two documents. Set bos_token or eos_token in tokenizer_config.json."
    )


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of all special tokens: those that no text is encoded to."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {i for i, token in added if token.special}


def token_strings(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token by itself as it looks in text, leading spaces kept.

    A token that is part of a character shows as U+FFFD, as decoding it alone does.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    return [_shown(tokenizer, int(i), token) for i, token in zip(ids, tokens, strict=True)]


def tokenizer_digest(folder: str | Path) -> str:
    """What identifies a tokenizer: sha256 over its files' names and contents."""
    folder = Path(folder)
    files = _files(folder)
    if not files:
        raise ModelError(f"{str(folder)!r} holds no tokenizer file to identify.")
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return f"sha256:{digest.hexdigest()}"


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]


def _shown(tokenizer: Any, token_id: int, token: str | None) -> str:
    if token is None:
        raise ModelError(
            f"Token id {token_id} is not in the tokenizer's vocabulary of {len(tokenizer)} tokens. "
            f"Was the text tokenized with another tokenizer?"
        )
    text: str = tokenizer.decode(
        [token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    # SentencePiece decoders drop a space of the first token; in a row of tokens it belongs there.
    spaces = len(token) - len(token.lstrip(_SENTENCEPIECE_SPACE))
    return " " * spaces + text.lstrip(" ") if spaces else text
