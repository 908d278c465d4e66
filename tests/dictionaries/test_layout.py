"""Column blocks survive their JSON form."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bathyscope.dictionaries.layout import ColumnBlock


def test_round_trip_through_json() -> None:
    block = ColumnBlock("resid_post.9", 576, 1152)
    data = json.loads(json.dumps(block.to_dict()))
    assert data == {"hook_point": "resid_post.9", "start": 576, "stop": 1152}
    assert ColumnBlock.from_dict(data) == block


def test_a_block_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ColumnBlock("a", 0, 1).start = 3  # type: ignore[misc]
