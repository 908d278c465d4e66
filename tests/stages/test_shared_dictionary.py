"""A dictionary of another run: read where it lies, and known by the digest of its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bathyscope.commands.run import run as run_stages
from bathyscope.commands.verify import verify
from bathyscope.config import Config
from bathyscope.errors import ConfigError, MissingArtifact, ModelError, StoreError
from bathyscope.runs.run import Run
from bathyscope.stages import shared_dictionary
from support import changed

STAGES = ("corpus", "harvest", "train", "encode")


@pytest.fixture
def sharing(finished_config: Config, tmp_path: Path) -> Config:
    """A run that encodes text with the dictionary of the finished one."""
    return changed(
        finished_config,
        url=str(tmp_path / "sharing"),
        data__train_tokens=1600,
        data__held_out_tokens=320,
        dictionary__run=finished_config.url,
    )


def weights_digest(run: Run) -> str:
    """Of the dictionary `main`."""
    return str(run.manifest("dictionaries/main").facts["weights_digest"])


def test_rows_are_encoded_as_the_other_run_encodes_them(sharing: Config, finished: Run) -> None:
    run_stages(sharing, stages=STAGES)
    run = Run(sharing.url)
    assert run.objects.files("dictionaries/main") == []
    assert weights_digest(run) == weights_digest(finished)
    # The same seed takes documents in the same order: the first items are the same.
    assert np.array_equal(run.corpus.tokens(0, 40), finished.corpus.tokens(0, 40))
    mine, theirs = run.latents["main"].items(0, 40), finished.latents["main"].items(0, 40)
    assert np.array_equal(mine[0], theirs[0])
    assert np.array_equal(mine[1], theirs[1])
    assert verify(sharing, print)


def test_a_second_call_finds_everything_done(sharing: Config) -> None:
    run_stages(sharing, stages=STAGES)
    run_stages(sharing, stages=STAGES)
    steps = Run(sharing.url).record["history"][-1]["stages"]
    assert all(figures["reused"] for figures in steps.values())


def test_a_pinned_digest_refuses_other_weights(sharing: Config, finished: Run) -> None:
    run_stages(sharing, stages=("corpus", "harvest"))
    right = weights_digest(finished)
    assert shared_dictionary.units(changed(sharing, dictionary__digest=right))
    with pytest.raises(ConfigError, match=r"digest is 1234, and dictionary main of .* pin these"):
        shared_dictionary.units(changed(sharing, dictionary__digest="1234"))


def test_a_dictionary_that_was_trained_anew_is_noticed(
    sharing: Config, finished_config: Config, tmp_path: Path
) -> None:
    source = changed(finished_config, url=str(tmp_path / "source"), train__epochs=1)
    run_stages(source, stages=("corpus", "harvest", "train"))
    own = changed(sharing, dictionary__run=source.url)
    run_stages(own, stages=("corpus", "harvest", "train"))
    run_stages(changed(source, train__seed=5, force=True), stages=("train",))
    with pytest.raises(StoreError, match="was trained anew since"):
        _ = Run(own.url).dictionaries["main"]


def test_what_does_not_fit_is_refused_before_anything_is_encoded(sharing: Config) -> None:
    run_stages(sharing, stages=("corpus", "harvest"))
    with pytest.raises(MissingArtifact, match=r"has no complete dictionaries/main"):
        shared_dictionary.units(changed(sharing, dictionary__run=sharing.url))
    other = changed(sharing, force=True, hooks__points=["resid_post.2"])
    run_stages(other, stages=("harvest",))
    with pytest.raises(ModelError, match=r"'resid_post.1': 32.*'resid_post.2': 32"):
        shared_dictionary.units(other)
