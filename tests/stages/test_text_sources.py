"""Corpora from Parquet, token files and conversations, through the whole stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bathyscope
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.corpora.documents import Document
from bathyscope.corpora.masks import Mask
from bathyscope.errors import CorpusError, ModelError
from bathyscope.models.tokenizers import load_tokenizer, separator_id
from bathyscope.stages.tokenised import role_bits, tokenised
from support import listing

TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"


def texts(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["id"], row["text"]) for row in rows]


def shards(config: Config) -> list[bytes]:
    stored = listing(Path(config.url) / "corpus.zarr")
    return [data for key, data in sorted(stored.items()) if "/c." in key]


def test_parquet_gives_the_sequences_of_the_same_text_in_jsonl(
    tiny_config: Callable[..., Config], tiny_text: Path, tmp_path: Path
) -> None:
    names, contents = zip(*texts(tiny_text), strict=True)
    pq.write_table(pa.table({"id": names, "text": contents}), tmp_path / "text.parquet")
    plain = tiny_config(tmp_path / "jsonl")
    mine = tiny_config(
        tmp_path / "run", data__kind="parquet", data__paths=[str(tmp_path / "text.parquet")]
    )
    for config in (plain, mine):
        run_stages(config, stages=["corpus"])
    assert shards(mine) == shards(plain)
    assert len(shards(mine)) > 4


def test_token_files_give_the_ids_that_they_hold(
    tiny_config: Callable[..., Config], tiny_text: Path, tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    end = separator_id(tokenizer)
    ids = tokenizer([text for _, text in texts(tiny_text)], add_special_tokens=False).input_ids
    flat = np.array([i for document in ids for i in (*document, end)], dtype=np.uint16)
    flat.tofile(tmp_path / "text.bin")
    config = tiny_config(
        tmp_path / "run",
        data__kind="tokens_bin",
        data__paths=[str(tmp_path / "text.bin")],
        data__shuffle=False,
    )
    run_stages(config, stages=["corpus"])
    corpus = bathyscope.open(config.url).corpus
    items = corpus.split_range("train")
    tokens = corpus.tokens(items.start, items.stop).reshape(-1).tolist()
    documents = corpus.documents(items.start, items.stop).reshape(-1)
    # The first document of the split, without its separator, is one of the file.
    first = [t for t, d in zip(tokens, documents, strict=True) if d == documents[0]][1:]
    assert first in ids or first in [document[: len(first)] for document in ids]
    assert tokens[0] == end


def test_conversations_keep_whose_each_token_is(
    tiny_config: Callable[..., Config],
    tiny_text: Path,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    rows = [
        {"messages": [
            {"role": "user", "content": text[:200]},
            {"role": "assistant", "content": text[200:600]},
        ]}
        for _, text in texts(tiny_text)
    ]  # fmt: skip
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = tiny_config(
        tmp_path / "run",
        model__path=str(folder),
        data__kind="chat",
        data__id_key=None,
        data__paths=[str(tmp_path / "talk.jsonl")],
        data__train_tokens=0,
        data__held_out_tokens=0,
    )
    run_stages(config, stages=["corpus"])
    corpus = bathyscope.open(config.url).corpus
    tokenizer = load_tokenizer(tiny_model)
    masks = corpus.masks(0, corpus.num_items).reshape(-1)
    tokens = corpus.tokens(0, corpus.num_items).reshape(-1).numpy()
    said = {
        role: tokenizer.decode(tokens[(masks & int(bit)) > 0])
        for role, bit in (("user", Mask.USER), ("assistant", Mask.ASSISTANT))
    }
    assert "user: " in said["user"]
    assert "assistant: " not in said["user"]
    assert "assistant: " in said["assistant"]
    assert "user: " not in said["assistant"]
    roles = masks & int(Mask.USER | Mask.ASSISTANT)
    separators = tokens == separator_id(tokenizer)
    assert (roles[separators] == 0).all()
    assert (roles[~separators] > 0).all()


def test_a_tokenizer_without_a_chat_template_is_refused(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    (tmp_path / "talk.jsonl").write_text("{}")
    config = tiny_config(
        tmp_path / "run", data__kind="chat", data__paths=[str(tmp_path / "talk.jsonl")]
    )
    with pytest.raises(CorpusError, match="has no chat template"):
        run_stages(config, stages=["corpus"])


def test_role_bits_by_hand() -> None:
    talk = Document("a", "ab cd", turns=(("user", 3), ("assistant", 5)))
    bits = role_bits(talk, np.array([0, 2, 3, 4, 5]))
    assert bits.tolist() == [Mask.USER, Mask.USER, Mask.ASSISTANT, Mask.ASSISTANT, 0]


def test_a_tokenizer_without_places_is_refused() -> None:
    class Slow:
        is_fast = False

    tokenizer: Any = Slow()
    with pytest.raises(ModelError, match="Conversations need a tokenizer that says where"):
        tokenised(tokenizer, [Document("a", "x", turns=(("user", 1),))])
