"""Matching and F1 worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from bathyscope.metrics.planted import match, planted_scores


def test_partners_are_chosen_together_and_once() -> None:
    true = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    # The first learned one is the best for both; the second is better for direction 0.
    learned = torch.tensor([[1.0, 1.0], [3.0, 0.0], [0.0, -1.0]])
    partners, cosines = match(true, learned)
    assert partners.tolist() == [1, 0]
    assert cosines.tolist() == pytest.approx([1.0, math.sqrt(0.5)])


def test_with_fewer_learned_ones_some_have_no_partner() -> None:
    partners, cosines = match(torch.eye(3), torch.eye(3)[1:2])
    assert partners.tolist() == [-1, 0, -1]
    assert cosines.tolist() == [0.0, 1.0, 0.0]


def test_f1_is_over_directions_that_are_active() -> None:
    true_active = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]]).bool()
    learned_active = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]]).bool()
    scores = planted_scores(torch.eye(3), torch.eye(3), true_active, learned_active)
    # Direction 0: 1 of 2 found, 1 of 2 right; direction 1: both; direction 2 is never active.
    assert scores.f1 == pytest.approx((0.5 + 1.0) / 2)
    assert (scores.matched_cosine, scores.share_above_09) == (1.0, 1.0)


def test_a_direction_without_a_partner_has_no_f1() -> None:
    active = torch.ones(2, 2, dtype=torch.bool)
    scores = planted_scores(torch.eye(2), torch.eye(2)[:1], active, active[:, :1])
    assert scores == (0.5, 0.5, 0.5)


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 3\] and \[2, 2\]"):
        match(torch.eye(3), torch.eye(2))
