"""A corpus that several runs share: read where it lies, the first items, and known by digest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bathyscope.commands.run import run as run_stages
from bathyscope.commands.verify import verify
from bathyscope.config import Config
from bathyscope.errors import CorpusError, MissingArtifact, StoreError
from bathyscope.runs.run import Run
from bathyscope.stages import corpus as corpus_stage
from bathyscope.stages.corpus import facts_for_plan
from bathyscope.values import HELD_OUT, TRAIN
from support import changed

STAGES = ("corpus", "harvest")


@pytest.fixture
def sharing(finished_config: Config, tmp_path: Path) -> Config:
    """The configuration of a run that reads the first 40 and 20 items of the finished one."""
    return changed(
        finished_config,
        url=str(tmp_path / "sharing"),
        data__run=finished_config.url,
        data__train_tokens=40 * 32,
        data__held_out_tokens=20 * 32 + 5,
    )


def test_the_first_items_keep_their_numbers(sharing: Config, finished: Run) -> None:
    run_stages(sharing, stages=STAGES)
    run = Run(sharing.url)
    held_out = finished.corpus.split_range(HELD_OUT).start
    assert [(r.split, r.start, r.stop) for r in run.corpus.ranges] == [
        (TRAIN, 0, 40),
        (HELD_OUT, held_out, held_out + 20),
    ]
    assert run.corpus.num_items == 60
    assert torch.equal(
        run.corpus.tokens(held_out, held_out + 20), finished.corpus.tokens(held_out, held_out + 20)
    )
    assert run.corpus.document_names == finished.corpus.document_names
    mine, theirs = run.activations["resid_post.1"], finished.activations["resid_post.1"]
    assert torch.equal(
        mine.items(held_out + 3, held_out + 9), theirs.items(held_out + 3, held_out + 9)
    )
    assert sum(len(mine.unit_rows(unit)) for _, unit in mine.units()) == 60 * 32


def test_a_second_call_finds_everything_done(sharing: Config) -> None:
    run_stages(sharing, stages=STAGES)
    run_stages(sharing, stages=STAGES)
    steps = Run(sharing.url).record["history"][-1]["stages"]
    assert all(figures["reused"] for figures in steps.values())


def test_a_corpus_that_was_made_anew_is_noticed(
    sharing: Config, finished_config: Config, tmp_path: Path, tiny_config: Callable[..., Config]
) -> None:
    source = tiny_config(str(tmp_path / "source"))
    run_stages(source, stages=("corpus",))
    own = changed(sharing, data__run=source.url)
    run_stages(own, stages=("corpus",))
    run_stages(changed(source, data__seed=7, force=True), stages=("corpus",))
    with pytest.raises(StoreError, match="was made anew since"):
        _ = Run(own.url).corpus


def test_more_than_there_is_is_refused(sharing: Config) -> None:
    with pytest.raises(CorpusError, match=r"3,125 items of the split train are wanted"):
        corpus_stage.units(changed(sharing, data__train_tokens=100_000))
    with pytest.raises(CorpusError, match=r"sequences of 32 tokens. Set data.sequence_length=32"):
        corpus_stage.units(changed(sharing, data__sequence_length=16))
    with pytest.raises(MissingArtifact, match="has no complete corpus"):
        corpus_stage.units(changed(sharing, data__run=str(sharing.url) + "-nothing"))


def test_the_plan_says_where_it_lies(sharing: Config, finished_config: Config) -> None:
    assert facts_for_plan(sharing) == (
        f"{finished_config.url}: 1,280 training tokens, 640 held out, read where they lie"
    )


def test_a_run_that_shares_is_sound(sharing: Config) -> None:
    run_stages(sharing, stages=STAGES)
    told: list[str] = []
    assert verify(sharing, told.append), told
