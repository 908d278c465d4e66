"""A training on rows that are still being harvested: bounded, in windows, to the bit resumable."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import ConfigError, StoreError
from bathyscope.runs.run import ACTIVATIONS, Run
from bathyscope.stages import harvest, train
from bathyscope.stages.hook_columns import hook_columns
from bathyscope.stages.masks import kept
from bathyscope.stages.streamed import StreamedBatches, Windows, windows_of
from bathyscope.stores.objects import Objects
from bathyscope.stores.streaming import Streaming, most_unit_bytes
from bathyscope.training import loop as loop_module
from bathyscope.values import TRAIN
from support import changed

MUCH = 10**9


@pytest.fixture
def config(tiny_config: Callable[..., Config], tmp_path: Path) -> Config:
    """Some twenty units of training rows; windows of four."""
    config = tiny_config(
        tmp_path / "run", train__epochs=1, train__batch_rows=64, store__items_per_unit=16,
        store__limit_bytes=MUCH, store__stream_units=4, dictionary__num_latents=32,
    )  # fmt: skip
    run_stages(config, stages=["corpus"])
    return config


def small(config: Config, windows: float) -> Config:
    """The same with room for so many windows, and the held-out units."""
    segment = harvest.units(config).segment
    held_out = segment.plan.num_units - len(segment.plan.indices(TRAIN))
    units = int(windows * config.store.stream_units) + held_out
    return changed(config, store__limit_bytes=units * most_unit_bytes(segment))


class Watch(threading.Thread):
    """Looks at the folder of the store all the time."""

    def __init__(self, config: Config) -> None:
        super().__init__(daemon=True)
        self.folder = Path(config.url) / ACTIVATIONS / config.hook
        self.most, self.over = 0, False

    def run(self) -> None:
        while not self.over:
            sizes = []
            for file in self.folder.rglob("*"):
                try:
                    sizes.append(file.stat().st_size)
                except FileNotFoundError:
                    continue
            self.most = max(self.most, sum(sizes))
            time.sleep(0.002)


def streamed(config: Config) -> int:
    """Harvest and train at the same time; the most bytes that were there."""
    watch = Watch(config)
    watch.start()
    with harvesting(config):
        run_stages(config, stages=["train"])
    watch.over = True
    return watch.most


@contextmanager
def harvesting(config: Config) -> Iterator[None]:
    """A harvest in a process of its own, which must end well; its store is begun."""
    kwargs = {"stages": ["harvest"]}
    writer = get_context("spawn").Process(target=run_stages, args=(config,), kwargs=kwargs)
    writer.start()
    try:
        while not Run(config.url).growing:
            time.sleep(0.01)
        yield
        writer.join(60)
        assert writer.exitcode == 0
    finally:
        writer.kill()


def weights(config: Config) -> dict[str, torch.Tensor]:
    return Run(config.url).dictionaries["main"].state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], tensor) for name, tensor in other.items())


@pytest.fixture
def stored(config: Config) -> dict[str, torch.Tensor]:
    """What comes out where all units fit, and are there before the first step."""
    other = changed(config, url=f"{config.url}-stored")
    run_stages(other, stages=["corpus", "harvest", "train"])
    return weights(other)


def test_a_bounded_store_gives_what_one_gives_that_keeps_everything(
    config: Config, stored: dict[str, torch.Tensor]
) -> None:
    bounded = small(config, 1.5)
    most = streamed(bounded)
    assert same(weights(bounded), stored)
    assert 0 < most <= bounded.store.limit_bytes
    segment = harvest.units(bounded).segment
    everything = segment.plan.num_units * most_unit_bytes(segment)
    assert most < 0.7 * everything
    streaming = Streaming(Objects(bounded.url).at(ACTIVATIONS), segment)
    assert streaming.retired().tolist() == list(segment.plan.indices(TRAIN))
    # Held-out rows stay, and the harvest counts as complete.
    rows = Run(bounded.url).activations[bounded.hook]
    first = rows.corpus.split_range("held_out").start
    assert rows.items(first, first + 2).shape == (2, 32, 32)
    run_stages(bounded, stages=["harvest", "train"])


class Interrupted(Exception):
    """The training was cut off."""


@pytest.mark.parametrize("after", [3, 40, 75])
def test_a_training_that_was_cut_off_goes_on_with_what_is_left(
    config: Config, stored: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    bounded = changed(small(config, 1.0), train__checkpoint_steps=10)
    real, seen = loop_module.Trainee.after, [0]

    def cut(self: Any, *given: Any) -> None:
        real(self, *given)
        seen[0] += 1
        if seen[0] == after:
            raise Interrupted

    monkeypatch.setattr(loop_module.Trainee, "after", cut)
    with harvesting(bounded):
        with pytest.raises(Interrupted):
            run_stages(bounded, stages=["train"])
        monkeypatch.undo()
        run_stages(bounded, stages=["train"])
    assert same(weights(bounded), stored)


def as_bytes(row: torch.Tensor) -> bytes:
    return row.view(torch.uint8).numpy().tobytes()


def test_rows_come_once_and_from_their_window(config: Config) -> None:
    run_stages(config, stages=["harvest"])
    columns = hook_columns(config, Run(config.url))
    batches = StreamedBatches(config, columns.all, consumer="a")
    assert len(batches.windows) == -(-len(batches.windows.units) // 4) > 2
    everything = columns.inputs[0]
    found, stored = [], Counter[bytes]()
    for window in range(len(batches.windows)):
        units = [everything.segment.plan.unit(u) for u in batches.windows[window]]
        inside = torch.cat([everything.unit_rows(unit) for unit in units])
        there = Counter(map(as_bytes, inside))
        stored += there
        for step in range(batches.num_steps(0, window)):
            rows = [as_bytes(row) for row in batches.batch(0, window, step)]
            assert set(rows) <= set(there)
            found += rows
        # `num_steps` knows from the corpus what the stored rows give.
        only = everything.only(batches.windows[window])
        aside = config.train.calibration_rows if window == len(batches.windows) - 1 else 0
        real = only.batches(
            TRAIN, kept, batch_rows=64, streams=4, window_chunks=4, aside_rows=aside
        )
        assert batches.num_steps(0, window) == real.num_steps(0, window)
    aside_rows = [as_bytes(row) for block in batches.aside() for row in block]
    assert len(aside_rows) == batches.num_aside > 0
    found += aside_rows
    # Two documents that begin alike have equal rows.
    assert not Counter(found) - stored
    assert len(found) >= 0.8 * batches.num_rows


def test_one_that_comes_late_is_told(config: Config) -> None:
    bounded = small(config, 2.0)
    streamed(bounded)
    with pytest.raises(StoreError, match=r"Unit 0 of .* was read and deleted.*A stream is read on"):
        run_stages(changed(bounded, dictionary__name="late"), stages=["train"])


def test_limits_that_cannot_be(config: Config) -> None:
    tight = small(config, 0.9)
    with pytest.raises(ConfigError, match=r"A window of 4 units and the \d+ held-out ones"):
        run_stages(tight, stages=["harvest"])
    assert not Path(config.url, ACTIVATIONS, "manifests").exists()


def test_windows_are_consecutive_and_the_last_is_short() -> None:
    windows = Windows(range(2, 13), 4)
    assert [windows[n] for n in range(len(windows))] == [range(2, 6), range(6, 10), range(10, 13)]


def test_half_of_the_room_is_a_window_where_nothing_is_said(config: Config) -> None:
    segment = harvest.units(config).segment
    unit = most_unit_bytes(segment)
    held_out = segment.plan.num_units - len(segment.plan.indices(TRAIN))
    chosen = changed(
        config, store__stream_units=0, store__limit_bytes=(held_out + 7) * unit + unit // 2
    )
    assert windows_of(chosen, segment, unit).each == 3


def test_the_size_of_a_window_is_part_of_what_a_dictionary_is(config: Config) -> None:
    run_stages(config, stages=["harvest"])
    assert train.units(config).identity["stream_units"] == 4
    wider = changed(config, store__stream_units=5)
    assert train.units(wider).identity["stream_units"] == 5
    larger = changed(config, store__limit_bytes=MUCH + 1)
    assert train.units(larger).identity == train.units(config).identity
