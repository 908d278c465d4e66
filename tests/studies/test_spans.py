"""Spans of text between common ends of tokens, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from bathyscope.studies.latent_pairs import LatentPairs
from bathyscope.studies.spans import (
    NO_END,
    NO_SPAN,
    common_ends,
    joint_keys,
    last_tokens,
    pool_max,
    renumbered,
    span_keys,
    spans_of_tokens,
    token_ends,
)
from bathyscope.studies.sparse_rows import sparse_rows


def ints(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def ends_of(*offsets: tuple[int, int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    starts, stops = zip(*offsets, strict=True)
    return token_ends(ints(*starts), ints(*stops))


def latents(num_rows: int, num_latents: int, k: int, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(num_rows, k, generator=generator)
    order = torch.rand(num_rows, num_latents, generator=generator).argsort(1)[:, :k]
    return values, order


def test_the_example_of_the_page() -> None:
    #          The|spec|ies|.of        The|species|.of
    a, b = ends_of((0, 3), (3, 7), (7, 10), (10, 13)), ends_of((0, 3), (3, 10), (10, 13))
    common = common_ends([a, b])
    assert_array_equal(common, [3, 10, 13])
    assert_array_equal(spans_of_tokens(a, common), [0, 1, 1, 2])
    assert_array_equal(spans_of_tokens(b, common), [0, 1, 2])
    assert_array_equal(last_tokens(spans_of_tokens(a, common), 3), [0, 2, 3])


def test_a_token_ends_nothing_inside_a_character() -> None:
    # "x🤗é" as x, then four bytes of one character, then two of another.
    bytewise = ends_of((0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3), (2, 3))
    assert_array_equal(bytewise, [1, NO_END, NO_END, NO_END, 2, NO_END, 3])
    # Another has x and the first two bytes in one, then the rest, é whole.
    other = ends_of((0, 2), (1, 2), (2, 3))
    assert_array_equal(other, [NO_END, 2, 3])
    common = common_ends([bytewise, other])
    assert_array_equal(common, [2, 3])
    assert_array_equal(spans_of_tokens(bytewise, common), [0] * 5 + [1] * 2)
    assert_array_equal(spans_of_tokens(other, common), [0, 0, 1])


def test_a_tail_after_the_last_common_end_is_of_no_span() -> None:
    a, b = ends_of((0, 2), (2, 4), (4, 6)), ends_of((0, 2), (2, 5))
    common = common_ends([a, b])
    assert_array_equal(common, [2])
    assert_array_equal(spans_of_tokens(a, common), [0, NO_SPAN, NO_SPAN])
    assert_array_equal(spans_of_tokens(b, common), [0, NO_SPAN])


def test_documents_of_one_token_and_of_none() -> None:
    one = ends_of((0, 5))
    assert_array_equal(spans_of_tokens(one, common_ends([one, one])), [0])
    none = token_ends(ints(), ints())
    assert_array_equal(common_ends([none, none]), [])
    assert_array_equal(spans_of_tokens(none, common_ends([none, none])), [])
    assert_array_equal(spans_of_tokens(one, common_ends([one, none])), [NO_SPAN])
    assert_array_equal(last_tokens(ints(), 0), [])


def test_a_token_without_characters_belongs_to_what_it_follows() -> None:
    a = ends_of((0, 2), (2, 2), (2, 4))
    assert_array_equal(spans_of_tokens(a, ints(2, 4)), [0, 0, 1])


def test_one_tokenizer_gives_a_span_of_each_token() -> None:
    starts = np.cumsum(np.random.default_rng(0).integers(1, 9, 100))
    ends = token_ends(starts[:-1], starts[1:])
    spans = spans_of_tokens(ends, common_ends([ends, ends, ends]))
    assert_array_equal(spans, np.arange(99))
    values, indices = latents(99, 20, 4, seed=0)
    pooled = pool_max(values, indices, spans, 99)
    before, after = (
        sparse_rows(*some, 20, name="x").toarray() for some in ((values, indices), pooled)
    )
    assert_array_equal(before, after)
    assert_array_equal(last_tokens(spans, 99), np.arange(99))


def test_a_refinement_has_the_spans_of_the_coarser_one() -> None:
    coarse = ends_of((0, 4), (4, 6), (6, 9))
    fine = ends_of((0, 1), (1, 4), (4, 6), (6, 7), (7, 8), (8, 9))
    common = common_ends([fine, coarse])
    assert_array_equal(common, coarse)
    assert_array_equal(spans_of_tokens(fine, common), [0, 0, 1, 2, 2, 2])


def test_a_span_has_the_maximum_of_each_latent() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.5, 1.0], [9.0, 9.0], [0.0, 0.0]])
    indices = torch.tensor([[4, 7], [7, 4], [4, 1], [0, 1], [2, 3]], dtype=torch.int32)
    pooled, numbers = pool_max(values, indices, ints(0, 0, 1, NO_SPAN, 2), 3)
    # Latent 4 is 1, then 0; latent 7 is 2, then 3. Span 1 is one token, and span 2 is silent.
    assert_array_equal(sparse_rows(pooled, numbers, 8, name="x").toarray(), [
        [0, 0, 0, 0, 1, 0, 0, 3], [0, 1, 0, 0, 0.5, 0, 0, 0], [0] * 8,
    ])  # fmt: skip
    assert pooled.shape == (3, 2)
    assert pool_max(values[:0], indices[:0], ints(), 0)[0].shape == (0, 1)


def test_a_model_with_itself_agrees_wholly_over_spans() -> None:
    values, indices = latents(300, 12, 3, seed=1)
    spans = np.arange(300) // 3
    pooled = pool_max(values, indices, spans, 100)
    pairs = LatentPairs(12, 12)
    pairs.update(*pooled, *pooled)
    some = np.arange(12)
    np.testing.assert_allclose(pairs.correlations(some, some), 1)


def test_spans_that_are_left_out_are_counted_past() -> None:
    spans = ints(0, 0, 1, NO_SPAN, 2, 2)
    kept = np.array([True, False, True])
    assert_array_equal(renumbered(spans, kept), [0, 0, NO_SPAN, NO_SPAN, 1, 1])


def test_keys_are_those_of_the_tokens_in_their_order() -> None:
    keys = span_keys(ints(5, 6, 5, 6, 5, 6, 5, 6), ints(0, 0, 1, 1, 2, 2, 3, NO_SPAN), 4)
    assert keys[0] == keys[1] == keys[2] != keys[3]
    turned = span_keys(ints(6, 5, 5), ints(0, 0, 1), 2)
    assert turned[0] != keys[0]
    assert turned[1] == keys[3]
    many = span_keys(np.arange(100_000), np.arange(100_000) // 2, 50_000)
    assert len(np.unique(many)) == 50_000
    assert_array_equal(joint_keys([keys]), keys)
    both = joint_keys([keys, ints(1, 1, 2, 1)])
    assert both[0] == both[1]
    assert len({*both.tolist()}) == 3


def test_offsets_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="do not follow one another"):
        ends_of((3, 4), (0, 3))
    with pytest.raises(ValueError, match="wanted one of a token"):
        token_ends(ints(0, 1), ints(1))
