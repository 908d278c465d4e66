"""Documents of several tokenizers, aligned by their text; and which corpus each member reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from bathyscope.commands.study import study
from bathyscope.config import Config
from bathyscope.corpora.packing import pack
from bathyscope.errors import ConfigError, CorpusError, ModelError
from bathyscope.models.bpe import train_bpe
from bathyscope.stages.studies.aligned_text import MOST_TOKENS, CutText, align, require_offsets
from bathyscope.stages.studies.corpora import corpora_of
from bathyscope.stages.studies.family import corpus_run, family_of
from bathyscope.studies.spans import NO_SPAN
from bathyscope.values import HELD_OUT

FILLER = "the cat sat on the mat " * 20
"""At the end, where the last tokens fill no sequence."""
TEXTS = ["the cat sat on the mat " * 3, "é", "x", "the 🤗 sat on é mat, and then the cat", FILLER]


def made(texts: Sequence[str], tokenizer: Any, *, length: int = 8, items: int = 0) -> CutText:
    """A corpus of these documents in memory, packed as corpora are, and its first items."""
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    packed = list(pack(enumerate(ids), sequence_length=length, separator_id=0, special_ids={0}))
    packed = packed[: items or len(packed)]
    corpus = SimpleNamespace(
        sequence_length=length,
        split_range=lambda split: SimpleNamespace(start=0, stop=len(packed)),
        tokens=lambda start, stop: _Tensor(np.stack([p.tokens for p in packed])),
        masks=lambda start, stop: np.stack([p.mask for p in packed]),
        documents=lambda start, stop: np.stack([p.document for p in packed]),
        document_names=[f"d{number}" for number in range(len(texts))],
        document_digests=[f"digest of {number}" for number in range(len(texts))],
        document_lengths=[len(one) for one in ids],
    )
    return CutText(corpus, tokenizer, HELD_OUT, 10**9)  # type: ignore[arg-type]


class _Tensor:
    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array.astype(np.int64)

    def flatten(self) -> Any:
        return SimpleNamespace(numpy=lambda: self._array.reshape(-1))


def bytewise(**settings: Any) -> Any:
    """Every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0, **{c: i for i, c in enumerate(alphabet, start=1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if settings.get("lower"):
        tokenizer.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


@pytest.fixture(scope="module")
def words() -> Any:
    """Some words are tokens."""
    return train_bpe(["the cat sat on the mat, and then the cat sat"] * 50, vocabulary=268)


def words_of(cut: CutText, tokenizer: Any, spans: Any) -> list[str]:
    """What stands in each span."""
    return [
        tokenizer.decode(cut.ids[spans == number].tolist()) for number in range(spans.max() + 1)
    ]


def test_both_sides_of_a_span_have_its_text(words: Any) -> None:
    fine, coarse = bytewise(), words
    cuts = [made(TEXTS, fine, length=64), made(TEXTS, coarse, length=16)]
    aligned = align(cuts)
    texts = [words_of(c, t, s) for c, t, s in zip(cuts, (fine, coarse), aligned.spans, strict=True)]
    assert texts[0] == texts[1]
    assert len(aligned) == len(texts[0]) == len(aligned.keys)
    assert {"é", "x", "<|endoftext|>"} <= set(texts[0])
    # Bytes of one character are not parted, and no span has a first position.
    assert "\ufffd" not in "".join(texts[0])
    for cut, spans in zip(cuts, aligned.spans, strict=True):
        assert (spans[~cut.keep] == NO_SPAN).all()
    by_text: dict[str, set[int]] = {}
    for text, key in zip(texts[0], aligned.keys.tolist(), strict=True):
        by_text.setdefault(text, set()).add(key)
    assert len(by_text["<|endoftext|>"]) == 1
    assert aligned.figures["span_tokens"][0] > aligned.figures["span_tokens"][1] >= 1
    assert aligned.figures["spans_masked"] > 0


def test_one_tokenizer_has_a_span_for_each_token(words: Any) -> None:
    texts = ["the cat sat on the mat " * 5, "a", "then"]
    cuts = [made(texts, words), made(texts, words)]
    aligned = align(cuts)
    for cut, spans in zip(cuts, aligned.spans, strict=True):
        assert (spans != NO_SPAN).tolist() == cut.keep.tolist()
        assert spans[cut.keep].tolist() == list(range(len(aligned)))
    # The same where only whole characters are tokens of the other.
    assert aligned.figures["span_tokens"] == [1, 1]


def test_a_document_that_is_cut_off_is_taken_as_far_as_it_goes(words: Any) -> None:
    text = ["the cat sat on 🤗 mat " * 8]
    whole, cut = made(text, bytewise(), length=32), made(text, words, length=16, items=3)
    aligned = align([whole, cut])
    texts = [
        "".join(words_of(c, t, s))
        for c, t, s in zip((whole, cut), (bytewise(), words), aligned.spans, strict=True)
    ]
    assert texts[0] == texts[1]
    # Whatever the cut-off end cannot be placed is of no span: all of the rest may be.
    assert 10 < len(texts[0]) < len(text[0])
    for items in range(1, 6):
        part = made(text, bytewise(), length=17, items=items)
        again = align([part, part])
        assert len(again) == len(set(again.spans[0].tolist()) - {NO_SPAN})


def test_long_spans_are_left_out_and_counted(words: Any) -> None:
    # Without a common end inside: the other tokenizer has it as one.
    long = "m" * (MOST_TOKENS + 1)
    one = train_bpe([f"{long} the cat {long}"] * 50, vocabulary=263)
    assert len(one(long).input_ids) < len(long) / 8
    texts = [*[f"the {long} cat sat on the mat"] * 3, FILLER]
    aligned = align([made(texts, bytewise(), length=200), made(texts, one, length=8)])
    assert aligned.figures["spans_long"] > 0
    counts = np.bincount(aligned.spans[0][aligned.spans[0] != NO_SPAN])
    assert counts.max() <= MOST_TOKENS


def test_texts_that_differ_are_refused(words: Any) -> None:
    texts = ["The Cat sat on the Mat"] * 8
    cuts = [made(texts, words), made(texts, bytewise(lower=True), length=16)]
    with pytest.raises(CorpusError, match=r"8 decode to other texts \(such as: 'd0' decodes"):
        align(cuts)
    few = [*["the cat sat on the mat"] * 9, "The", FILLER]
    cuts = [made(few, words), made(few, bytewise(lower=True), length=16)]
    assert align(cuts).figures["documents_differing"] == 1


def test_documents_have_to_be_the_same(words: Any) -> None:
    cuts = [made(TEXTS, words), made(TEXTS, words)]
    cuts[1].corpus.document_digests[:] = ["another"] * len(TEXTS)
    with pytest.raises(CorpusError, match="no document in common"):
        align(cuts)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(ModelError, match=r"where tokens lie, and ByT5Tokenizer does not say so"):
        require_offsets(ByT5Tokenizer())


def test_it_is_refused_before_anything_is_made(
    mixed: Callable[..., Config], tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    (folder / "tokenizer.json").unlink()
    ByT5Tokenizer().save_pretrained(folder)
    config = mixed("universality")
    with pytest.raises(ModelError, match=r"ByT5Tokenizer of three does not say so"):
        study(config, lambda line: None)
    assert list(Path(config.url).iterdir()) == []


@pytest.fixture
def mixed(
    tiny_study: Callable[..., Config], tiny_model: Path, tmp_path: Path
) -> Callable[..., Config]:
    """A family of two models of one tokenizer and one of another."""
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny_model.iterdir():
        if file.is_file():
            (other / file.name).write_bytes(file.read_bytes())
    train_bpe(["the cat sat on the mat"] * 50, vocabulary=264).save_pretrained(other)
    members = [
        {"name": "one", "path": str(tiny_model), "architecture": "llama", "seed": 0},
        {"name": "two", "path": str(tiny_model), "architecture": "llama", "seed": 1},
        {"name": "three", "path": str(other), "architecture": "llama", "seed": 0},
    ]

    def make(name: str, **settings: Any) -> Config:
        given = {"family__kind": "members", "family__members": members, "family__run": None}
        return tiny_study(name, **{**given, **settings})

    return make


def test_each_tokenizer_has_its_corpus(mixed: Callable[..., Config]) -> None:
    config = mixed("universality")
    by_name = {member.name: member for member in family_of(config)}
    assert by_name["one"].corpus is by_name["two"].corpus is None
    other = by_name["three"].corpus
    assert other is not None
    assert other.startswith(f"{config.url}/corpora/")
    assert corpus_run(config, by_name["three"]) == other
    assert corpus_run(config, by_name["one"]) == config.url
    assert [m.name for m in corpora_of(list(by_name.values()))] == ["one", "three"]


def test_other_studies_refuse_other_tokenizers(mixed: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"2 tokenizers: one, two; three\. .* only universality"):
        study(mixed("superposition"), lambda line: None)


def test_tokens_that_are_given_have_one_tokenizer(mixed: Callable[..., Config]) -> None:
    config = mixed("universality")
    for data in (
        replace(config.data, run="elsewhere"),
        replace(config.data, kind="tokens_bin", paths=["a.bin"]),
    ):
        with pytest.raises(ConfigError, match=r"and three of the family have another"):
            family_of(replace(config, data=data))


def test_what_is_measured_is_json(mixed: Callable[..., Config]) -> None:
    aligned = align([made(TEXTS, bytewise(), length=32)] * 2)
    assert json.loads(json.dumps(aligned.figures)) == aligned.figures
