"""Pairs of equal length, alignment and padding, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from bathyscope.attribution.nodes import Heads, Module, Pairs, contrast, exact_patching
from bathyscope.attribution.nodes.forward import traced
from bathyscope.errors import ConfigError


def test_short_pairs_are_padded_at_the_end_and_keep_their_last_position() -> None:
    pairs = Pairs.of_tokens([[5, 6, 7], [5, 6]], [[5, 9, 7], [4, 6]])
    assert pairs.keep.tolist() == [[True, True, True], [True, True, False]]
    assert pairs.last.tolist() == [2, 1]
    assert "attention_mask" not in pairs.clean


def test_ends_that_belong_together_stand_at_one_position() -> None:
    pairs = Pairs.of_tokens([[5, 6, 7, 8]], [[9, 8]], align="right")
    assert pairs.keep.tolist() == [[False, False, True, True]]
    assert pairs.last.tolist() == [3]
    assert isinstance(pairs.corrupted, dict)
    assert pairs.corrupted["position_ids"].tolist() == [[0, 0, 0, 1]]
    assert pairs.corrupted["input_ids"].tolist() == [[0, 0, 9, 8]]


def test_starts_that_belong_together_leave_the_end_out() -> None:
    pairs = Pairs.of_tokens([[5, 6, 7, 8]], [[9, 8]], align="left")
    assert pairs.keep.tolist() == [[True, True, False, False]]
    assert pairs.last.tolist() == [3]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_at_either_end_changes_no_prediction(model_of: Any, attention: str) -> None:
    # In float64 the eager attention of transformers gives NaN where a row may look nowhere.
    model = copy.deepcopy(model_of("llama", attention)).float()
    short = Pairs.of_tokens([[5, 6, 7]], [[5, 9, 7]])
    wanted = traced(model, short.clean).logits[0, 2]
    for align, at in (("left", 2), ("right", 4)):
        padded = Pairs.of_tokens([[5, 6, 7], [3] * 5], [[5, 9, 7], [4] * 5], align=align)  # type: ignore[arg-type]
        logits = traced(model, padded.clean).logits
        torch.testing.assert_close(logits[0, at], wanted, rtol=1e-4, atol=1e-4)


def test_scores_of_a_pair_do_not_depend_on_padding_beside_longer_ones(model_of: Any) -> None:
    model = model_of("llama", "sdpa")
    words = {"answers": [5], "wrong": [6]}
    alone = Pairs.of_tokens([[5, 6, 7]], [[5, 9, 7]], **words)  # type: ignore[arg-type]
    both = {"answers": [5, 5], "wrong": [6, 6]}
    sets = [Heads(layer=1), Module(place="mlp_out.0")]
    wanted = exact_patching(contrast(model, alone, "logit_difference", sets)).values
    for align in ("left", "right"):
        padded = Pairs.of_tokens(
            [[5, 6, 7], [3] * 5],
            [[5, 9, 7], [4] * 5],
            align=align,
            **both,  # type: ignore[arg-type]
        )
        found = exact_patching(contrast(model, padded, "logit_difference", sets)).values
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours[: len(theirs)], theirs, rtol=1e-4, atol=1e-5)


def test_pairs_of_unequal_length_are_named_with_what_can_be_done() -> None:
    with pytest.raises(
        ConfigError, match=r"Pair 1 has 3 tokens in its clean prompt and 2 .*align='right'"
    ):
        Pairs.of_tokens([[1], [1, 2, 3]], [[1], [1, 2]])


@pytest.mark.parametrize(
    ("clean", "corrupted", "options", "message"),
    [
        ([], [], {}, "at least one pair"),
        ([[1]], [[1], [2]], {}, "2 corrupted"),
        ([[1]], [[2]], {"answers": [1, 2]}, "2 answers"),
        ([[]], [[2]], {}, "pair 0 has no tokens"),
        ([[1]], [[2]], {"align": "middle"}, "align is 'middle'"),
    ],
)
def test_bad_pairs_are_refused(clean: Any, corrupted: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pairs.of_tokens(clean, corrupted, **options)


def test_texts_become_tokens_and_answers_must_be_one(tiny_model: Any) -> None:
    from bathyscope.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    one = tokenizer.convert_ids_to_tokens([300])[0].replace("Ġ", " ")
    pairs = Pairs.of_texts(tokenizer, ["the class"], ["the class"], answers=[one], wrong=[one])
    assert pairs.answers is not None
    assert pairs.answers.tolist() == [300]
    with pytest.raises(ConfigError, match="wanted one"):
        Pairs.of_texts(tokenizer, ["a"], ["a"], answers=["xylophone zebra"], wrong=[one])


def test_swapped_pairs_exchange_prompts_and_answers() -> None:
    pairs = Pairs.of_tokens([[1, 2]], [[3, 2]], answers=[4], wrong=[5]).swapped()
    assert isinstance(pairs.clean, dict)
    assert pairs.clean["input_ids"].tolist() == [[3, 2]]
    assert pairs.answers is not None
    assert pairs.answers.tolist() == [5]
