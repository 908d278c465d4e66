"""A ladder of tiny models, trained once, and how a study of it is configured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bathyscope.commands.ladder import ladder
from bathyscope.config import Config

RUNGS = [
    {"parameters": 13_000, "width": 16, "layers": 2, "heads": 2},
    {"parameters": 21_000, "width": 24, "layers": 2, "heads": 2},
    {"parameters": 36_000, "width": 32, "layers": 2, "heads": 2},
]


@pytest.fixture(scope="session")
def tiny_ladder(
    tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    """Three sizes of llama with two seeds each, a few steps of training, three checkpoints."""
    config = tiny_config(
        tmp_path_factory.mktemp("tiny_ladder") / "run",
        ladder__families=["llama"],
        ladder__rungs=RUNGS,
        ladder__seeds=[0, 1],
        ladder__vocabulary=300,
        ladder__tokens=4000,
        ladder__batch_items=4,
        ladder__evaluations=1,
        ladder__watched_tokens=500,
        ladder__checkpoints=3,
    )
    ladder(config, lambda line: None)
    return config


@pytest.fixture
def tiny_study(
    tiny_config: Callable[..., Config], tiny_ladder: Config, tmp_path: Path
) -> Callable[..., Config]:
    """A study of that ladder in seconds: `tiny_study("dictionary_scaling", family__models=…)`."""

    def make(name: str, **settings: Any) -> Config:
        defaults: dict[str, Any] = {
            "family__run": tiny_ladder.url,
            "study__name": name,
            "study__train_tokens": 3200,
            "study__held_out_tokens": 960,
            "study__splice_tokens": 640,
            "study__expansions": [2],
            "study__k_shares": [0.125],
            "study__widths": [32, 64],
            "study__ks": [4],
            "study__tokens_per_latent": 20,
            "study__batch_rows": 128,
            "study__resamples": 50,
            "cluster__kind": "inline",
            "cluster__threads": 1,
        }
        return tiny_config(tmp_path / "studies", **{**defaults, **settings})

    return make
