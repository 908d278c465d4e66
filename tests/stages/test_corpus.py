"""The corpus stage: what is written is the text that was read, split before anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.corpora.masks import Mask
from bathyscope.errors import CorpusError
from bathyscope.models.tokenizers import load_tokenizer
from bathyscope.runs.run import Run
from bathyscope.values import HELD_OUT, TRAIN


def test_splits_cover_all_items_without_overlap(finished: Run) -> None:
    train, held_out = finished.corpus.split_range(TRAIN), finished.corpus.split_range(HELD_OUT)
    assert (train.start, train.stop) == (0, held_out.start)
    assert held_out.stop == finished.corpus.num_items
    # 9000 tokens wanted: the document that fills the budget may add a few sequences.
    assert 9000 // 32 <= train.stop <= 9000 // 32 + 60


def test_no_document_is_on_both_sides(finished: Run) -> None:
    corpus = finished.corpus
    sides = [
        set(np.unique(corpus.documents(r.start, r.stop)).tolist())
        for r in (corpus.split_range(TRAIN), corpus.split_range(HELD_OUT))
    ]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_tokens_and_offsets_give_back_the_documents(
    finished: Run, finished_config: Config, tiny_model: Path, tiny_text: Path
) -> None:
    originals = {}
    for line in tiny_text.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        originals[record["id"]] = record["text"]
    tokenizer = load_tokenizer(tiny_model)
    corpus = finished.corpus
    tokens = corpus.tokens(0, 40).flatten().numpy()
    documents = corpus.documents(0, 40).ravel()
    offsets = corpus.offsets(0, 40).ravel()
    whole = documents[len(documents) // 2]
    mine = documents == whole
    assert offsets[mine].tolist() == list(range(offsets[mine][0], offsets[mine][-1] + 1))
    text = tokenizer.decode(tokens[mine & (offsets > 0)])
    assert text
    assert text in originals[corpus.document_names[whole]]


def test_masks_name_first_positions_and_separators(finished: Run) -> None:
    masks = finished.corpus.masks(0, 20)
    tokens = finished.corpus.tokens(0, 20).numpy()
    assert ((masks & Mask.FIRST) > 0).sum() == 20
    assert ((masks[:, 0] & Mask.FIRST) > 0).all()
    np.testing.assert_array_equal((masks & Mask.SPECIAL) > 0, tokens == 0)


def test_text_shorter_than_a_sequence_is_refused(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(json.dumps({"text": f"word {i}"}) for i in range(6)))
    config = tiny_config(tmp_path / "run", data__paths=[str(short)], data__id_key=None)
    with pytest.raises(CorpusError, match=r"less than one sequence of 32"):
        run_stages(config, stages=["corpus"])
