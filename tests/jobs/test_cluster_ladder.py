"""A ladder over Ray: two workers train two models at a time, with the weights of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bathyscope.commands.ladder import ladder
from bathyscope.config import Config
from support import changed, listing

pytestmark = [
    pytest.mark.cluster,
    # Ray's own subprocess pipes are closed by the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def test_two_workers_train_the_models_that_one_process_trains(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(
        tmp_path / "inline", ladder__families=["llama", "gpt2"], ladder__seeds=[0, 1],
        ladder__rungs=[{"parameters": 36_000, "width": 32, "layers": 2, "heads": 2}],
        ladder__vocabulary=300, ladder__tokens=4000, ladder__batch_items=4,
        ladder__evaluations=3, ladder__watched_tokens=500, ladder__checkpoints=2,
    )  # fmt: skip
    over_ray = changed(config, url=str(tmp_path / "ray"), cluster__kind="local", cluster__workers=2)
    for each in (config, over_ray):
        ladder(each, lambda text: None)
    found = [listing(Path(each.url) / "ladder") for each in (config, over_ray)]
    weights = [{k: v for k, v in files.items() if k.endswith(".safetensors")} for files in found]
    assert len(weights[0]) == 4 * (3 + 1)
    assert weights[0] == weights[1]
    rows = [json.loads(files["results.json"])["models"] for files in found]
    assert [{**r, "seconds": 0} for r in rows[0]] == [{**r, "seconds": 0} for r in rows[1]]
