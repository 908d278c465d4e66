"""The inline driver: interrupted work goes on, finished work is not done again."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import ReceiptConflict, StopRequested
from bathyscope.jobs.audit import audited
from bathyscope.jobs.inline import Inline
from bathyscope.jobs.sink import Silent
from bathyscope.jobs.stopping import SIGNALS, StopRequest
from bathyscope.jobs.unit import do_unit
from bathyscope.runs.run import ACTIVATIONS, Run
from bathyscope.runs.work import begin
from bathyscope.stages import harvest, train
from bathyscope.stores.leases import Holder, Leases
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.values import Unit
from support import changed, listing

DATA = ("activations.zarr", "resid_post.1")


@pytest.fixture
def with_corpus(tiny_config: Callable[..., Config], tmp_path: Path) -> Config:
    config = tiny_config(tmp_path / "run")
    run_stages(config, stages=["corpus"])
    return config


def done(config: Config) -> list[int]:
    """Units of the harvest that have a receipt."""
    work = harvest.units(config)
    receipts = Receipts(Objects(config.url).at(ACTIVATIONS), work.segment.name)
    return [int(unit) for unit in receipts.units()]


class InterruptAfter(Silent):
    """A person who presses Ctrl-C when some units are done."""

    def __init__(self, units: int) -> None:
        self.units = units

    def progress(self, done: float, text: str) -> None:
        if done >= self.units:
            raise KeyboardInterrupt


def shards(config: Config) -> dict[str, bytes]:
    return listing(Path(config.url).joinpath(*DATA))


def test_ctrl_c_keeps_finished_units_and_the_same_command_goes_on(with_corpus: Config) -> None:
    driver = Inline(with_corpus)
    with pytest.raises(KeyboardInterrupt):
        driver.drive(harvest, InterruptAfter(3))
    total = harvest.units(with_corpus).plan.num_units
    # Two units are under way at a time, and either may have brought the news.
    assert len(done(with_corpus)) in (2, 3, 4)
    kept = {k: v for k, v in shards(with_corpus).items() if k.split(".")[0].endswith("c")}
    driver.drive(harvest, Silent())
    after = shards(with_corpus)
    assert {k: after[k] for k in kept} == kept
    receipts = Run(with_corpus.url).activations["resid_post.1"].readers[0].receipts
    attempts = [r.writer["attempt"] for r in receipts.values()]
    assert sum(attempts) - total in (0, 1, 2)


def test_resumed_bytes_are_those_of_a_quiet_run(with_corpus: Config, tmp_path: Path) -> None:
    quiet = dataclasses.replace(with_corpus, url=str(tmp_path / "quiet"))
    run_stages(quiet, stages=["corpus", "harvest"])
    driver = Inline(with_corpus)
    for units in (1, 4, 6):
        with pytest.raises(KeyboardInterrupt):
            driver.drive(harvest, InterruptAfter(units))
    driver.drive(harvest, Silent())
    assert shards(with_corpus) == shards(quiet)


_CHILD = """
import sys, time
from bathyscope.config import Config
from bathyscope.errors import ReceiptConflict, StopRequested
from bathyscope.jobs.audit import audited
from bathyscope.jobs.inline import Inline
from bathyscope.jobs.sink import Silent
from bathyscope.jobs.stopping import SIGNALS, StopRequest
from bathyscope.stages import harvest
import bathyscope.stages.harvest as module
import pathlib
from support import read_config
config = read_config(sys.argv[1])
class Slow(module.Filling):
    def finish(self):
        if self._unit.index == 2:
            pathlib.Path(sys.argv[2]).touch()
            time.sleep(60)
        return super().finish()
module.Filling = Slow
Inline(config).drive(harvest, Silent())
"""


def test_sigkill_repeats_the_units_under_way_only(with_corpus: Config, tmp_path: Path) -> None:
    settings = tmp_path / "config.json"
    settings.write_text(_as_json(with_corpus))
    reached = tmp_path / "reached"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(settings), str(reached)], env=environment
    )
    deadline = time.monotonic() + 60
    while not reached.exists():
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    # Its lease has minutes to run, but a dead process of this host holds nothing.
    Inline(with_corpus).drive(harvest, Silent())
    receipts = Run(with_corpus.url).activations["resid_post.1"].readers[0].receipts
    attempts = {unit: r.writer["attempt"] for unit, r in receipts.items()}
    assert attempts[2] == 2
    # The other unit that was under way may have been any of those after it.
    assert sum(attempts.values()) - len(attempts) in (1, 2)


class SignalAfter(Silent):
    """A scheduler that asks for the end when some units are done."""

    def __init__(self, units: float, number: signal.Signals) -> None:
        self.units = units
        self.number: signal.Signals | None = number

    def progress(self, done: float, text: str) -> None:
        if self.number is not None and done >= self.units:
            os.kill(os.getpid(), self.number)
            self.number = None


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_after_the_unit_under_way(
    with_corpus: Config, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    total = harvest.units(with_corpus).plan.num_units

    with pytest.raises(StopRequested, match=rf"{number.name}: [45] of {total} units of harvest"):
        Inline(with_corpus).drive(harvest, SignalAfter(3.5, number))

    assert signal.getsignal(number) is before
    assert len(done(with_corpus)) in (4, 5)
    Inline(with_corpus).drive(harvest, Silent())
    assert len(done(with_corpus)) == total


def test_a_unit_that_takes_longer_than_the_signal_allows_is_dropped(with_corpus: Config) -> None:
    hasty = changed(with_corpus, cluster__drain_s=0)
    with pytest.raises(StopRequested, match=r"SIGTERM: \d of"):
        Inline(hasty).drive(harvest, SignalAfter(3.2, signal.SIGTERM))

    dropped = len(done(with_corpus))
    assert dropped <= 4
    begun = begin(Objects(with_corpus.url), harvest.units(with_corpus), force=False)
    other = Holder("another-host", 1, 0.0)
    leases = Leases(begun.objects, begun.work.segment.name, holder=other)
    assert leases.claim(dropped) is not None, "another host need not wait for the lease to end"


def test_signals_keep_their_meaning_in_other_threads() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def inside() -> None:
        with StopRequest() as stop:
            assert signal.getsignal(signal.SIGTERM) is before
            assert not stop.asked
            assert stop.seconds == 0.0

    with ThreadPoolExecutor(1) as pool:
        pool.submit(inside).result()


def test_every_unit_can_be_audited(with_corpus: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[tuple[int, bool]] = []
    run = harvest.run

    def counted(unit: Unit, context: Any, guard: Any) -> Any:
        runs.append((unit.index, guard.keep))
        return run(unit, context, guard)

    monkeypatch.setattr(harvest, "run", counted)
    Inline(changed(with_corpus, cluster__audit=1.0)).drive(harvest, Silent())

    total = harvest.units(with_corpus).plan.num_units
    assert sorted(runs) == sorted([(u, keep) for u in range(total) for keep in (True, False)])


def test_an_audit_finds_a_worker_that_makes_other_bytes(
    with_corpus: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flipped(harvest.Filling):
        def add(self, name: str, rows: Tensor) -> None:
            if not self._keep and self._unit.index == 2:
                rows = rows.clone()
                rows[5, 3] += 1
            super().add(name, rows)

    monkeypatch.setattr(harvest, "Filling", Flipped)
    with pytest.raises(ReceiptConflict, match=r"Unit 2 .* was done twice with different results"):
        Inline(changed(with_corpus, cluster__audit=1.0)).drive(harvest, Silent())
    assert 2 not in done(with_corpus)


def test_the_audited_share_is_the_same_choice_every_time(with_corpus: Config) -> None:
    begun = begin(Objects(with_corpus.url), harvest.units(with_corpus), force=False)
    chosen = audited(harvest, begun, 0.1)
    assert chosen is not None
    units = [u for u in range(10_000) if chosen(u)]
    again = audited(harvest, begun, 0.1)
    assert again is not None
    # Binomial with 10,000 draws of 0.1: a standard deviation is 30.
    assert abs(len(units) - 1000) < 150
    assert units == [u for u in range(10_000) if again(u)]
    assert audited(harvest, begun, 0.0) is None
    assert audited(train, begun, 1.0) is None, "it writes no rows"


def test_a_unit_that_somebody_alive_holds_is_left_alone(with_corpus: Config) -> None:
    begun = begin(Objects(with_corpus.url), harvest.units(with_corpus), force=False)
    other = Holder("another-host", 1, 0.0)
    leases = Leases(begun.objects, begun.work.segment.name, holder=other)
    assert leases.claim(0) is not None
    receipt = do_unit(
        harvest,
        begun.remaining[0],
        context=None,
        work=begun.work,
        objects=begun.objects,
        lease_s=600,
        report=lambda fraction, text: None,
    )
    assert receipt is None
    assert Receipts(begun.objects, begun.work.segment.name).units().tolist() == []


def test_receipts_say_who_wrote_on_what(with_corpus: Config) -> None:
    Inline(with_corpus).drive(harvest, Silent())
    receipts = Run(with_corpus.url).activations["resid_post.1"].readers[0].receipts
    writer: dict[str, Any] = dict(receipts[0].writer)
    assert writer["pid"] == os.getpid()
    assert writer["threads"] == 1
    assert set(writer) >= {"host", "device", "instruction_set", "torch", "attempt"}
    facts = Run(with_corpus.url).manifest(ACTIVATIONS).facts
    assert facts["mixed"] is False


def test_another_thread_count_is_no_other_identity(with_corpus: Config) -> None:
    Inline(with_corpus).drive(harvest, Silent())
    other = changed(with_corpus, cluster__threads=2)
    assert begin(Objects(other.url), harvest.units(other), force=False).complete


def _as_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config))
