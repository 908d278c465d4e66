"""Scalars of trainings, read back with the libraries' own readers."""

from __future__ import annotations

import json
import logging
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import DependencyError, StoreError
from bathyscope.runs.run import Run
from bathyscope.stages import log_writers
from bathyscope.stages.hook_columns import hook_columns
from bathyscope.stages.logs import Copies, Log, open_log
from bathyscope.stages.trainings import Wanted, train_together
from bathyscope.stores.objects import Objects
from bathyscope.training.loop import Point
from bathyscope.training.step import StepFigures
from s3_server import BUCKET, environment, s3_server

NAMES = ("loss", "fvu", "auxk", "l0", "dead_share", "lr", "sparsity", "tokens")
MISSING = find_spec("wandb") is None


class Stops:
    """A guard under which a training ends after so many checks."""

    keep, turn = True, None

    def __init__(self, checks: int = 10**9) -> None:
        self._left = checks

    def check(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise StoreError("the worker was killed")

    def progress(self, fraction: float, text: str = "") -> None:
        return None


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value; a step that comes twice is an error."""
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    found = {}
    for tag in read.Tags()["scalars"]:
        events = read.Scalars(tag)
        found[tag] = {event.step: event.value for event in events}
        assert len(found[tag]) == len(events), f"{tag} has a step twice"
    return found


def expected(run: Run, name: str = "main") -> dict[str, dict[int, float]]:
    """The same from the table of the run."""
    rows = run.curve(name).to_pylist()
    return {f"train/{column}": {r["step"]: r[column] for r in rows} for column in NAMES}


def assert_same(found: dict[str, dict[int, float]], wanted: dict[str, dict[int, float]]) -> None:
    assert found.keys() - {"train/rows_per_s"} == wanted.keys()
    for tag, values in wanted.items():
        assert found[tag].keys() == values.keys()
        # Event files hold float32.
        assert [found[tag][step] for step in values] == pytest.approx(
            list(values.values()), rel=1e-6, abs=1e-12
        )


@pytest.fixture
def harvested(tiny_config: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """`harvested(**settings)`: a configuration whose rows are there."""

    def make(**settings: Any) -> Config:
        config = tiny_config(tmp_path / "run", train__log_every=4, **settings)
        run_stages(config, stages=["corpus", "harvest"])
        return config

    return make


def test_event_files_hold_what_the_table_holds(harvested: Callable[..., Config]) -> None:
    config = harvested()
    run_stages(config, stages=["train"])
    found = scalars(Path(config.url) / "logs" / "main")
    assert_same(found, expected(Run(config.url)))
    steps = sorted(found["train/fvu"])
    assert len(steps) > 5
    # Speed is known from the second point on.
    assert sorted(found["train/rows_per_s"]) == steps[1:]
    assert min(found["train/rows_per_s"].values()) > 0


def test_a_training_that_goes_on_has_no_step_twice(
    harvested: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = harvested(train__checkpoint_steps=10)
    columns = hook_columns(config, Run(config.url))
    objects = Objects(config.url).at("dictionaries/main")
    wanted = [Wanted(config, objects, "s")]
    # Checked at every tenth step and at every checkpoint: it ends at step 40.
    with pytest.raises(StoreError, match="killed"):
        train_together(wanted, columns, guard=Stops(6))
    folder = Path(config.url) / "logs" / "main"
    before = scalars(folder)["train/fvu"]
    assert max(before) > 30
    [trained] = train_together(wanted, columns, guard=Stops())
    found = scalars(folder)["train/fvu"]
    assert len(list(folder.iterdir())) == 2
    assert found == pytest.approx({p.step: p.figures.fvu for p in trained.curve}, rel=1e-6)
    assert set(before) < set(found)


def test_a_training_that_begins_anew_leaves_nothing_of_another(
    harvested: Callable[..., Config],
) -> None:
    config = harvested()
    run_stages(config, stages=["train"])
    config.train.lr, config.force = 1e-3, True
    run_stages(config, stages=["train"])
    folder = Path(config.url) / "logs" / "main"
    assert len(list(folder.iterdir())) == 1
    assert_same(scalars(folder), expected(Run(config.url)))


def test_logging_is_no_part_of_the_identity(harvested: Callable[..., Config]) -> None:
    config = harvested(logging__kind="none")
    run_stages(config, stages=["train"])
    assert not (Path(config.url) / "logs").exists()
    weights = Path(config.url) / "dictionaries" / "main" / "model.safetensors"
    changed = weights.stat().st_mtime_ns
    config.logging.kind = "tensorboard"
    # Complete: nothing is trained, and nothing is refused.
    run_stages(config, stages=["train"])
    assert weights.stat().st_mtime_ns == changed


def test_several_dictionaries_are_several_runs(harvested: Callable[..., Config]) -> None:
    config = harvested()
    columns = hook_columns(config, Run(config.url))
    wanted = []
    for name, k in (("narrow", 2), ("wide", 6)):
        one = Config(**{**vars(config), "dictionary": type(config.dictionary)()})
        vars(one.dictionary).update(vars(config.dictionary), name=name, k=k)
        wanted.append(Wanted(one, Objects(config.url).at(f"dictionaries/{name}"), "s"))
    trained = train_together(wanted, columns, guard=Stops())
    for each, name in zip(trained, ("narrow", "wide"), strict=True):
        l0 = scalars(Path(config.url) / "logs" / name)["train/l0"]
        assert l0 == pytest.approx({p.step: p.figures.l0 for p in each.curve}, rel=1e-6)


def test_other_ranks_write_nothing(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run")
    with open_log(config, segment="s", rank=1, start=0) as log:
        log.write(point(1))
        log.keep()
    assert not (tmp_path / "run").exists()


def test_a_store_gets_copies_at_checkpoints_and_at_the_end(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    def stored() -> list[int]:
        """Steps of the event files in the store."""
        copied = tmp_path / "copied"
        copied.mkdir(exist_ok=True)
        for key in objects.files(""):
            (copied / key).write_bytes(objects.get(key))
        return sorted(scalars(copied)["train/fvu"])

    with s3_server(tmp_path / "server.log") as server, environment(server):
        config = tiny_config(f"s3://{BUCKET}/runs/tiny", cache=str(tmp_path / "cache"))
        objects = Objects(config.url).at("logs/main")
        objects.put("events.of.another.training", b"")
        with open_log(config, segment="s", rank=0, start=0) as log:
            assert objects.files("") == []
            log.write(point(1))
            log.keep()
            assert log._copies is not None
            assert log._copies._copying is not None
            log._copies._copying.result()
            assert stored() == [1]
            log.write(point(11))
            log.write(point(21))
        assert stored() == [1, 11, 21]
        # Another machine goes on after step 11, with an empty cache. TensorBoard reads files in the
        # order of their names, which start with the second in which they were made.
        shutil.rmtree(tmp_path / "cache")
        time.sleep(1.1)
        with open_log(config, segment="s", rank=0, start=11) as log:
            log.write(point(21))
            log.write(point(31))
        assert stored() == [1, 11, 21, 31]
        assert len(objects.files("")) == 2


def test_files_are_copied_when_they_have_grown(tmp_path: Path) -> None:
    folder, objects = tmp_path / "local", Objects(str(tmp_path / "store"))
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "events").write_bytes(b"one")
    copies = Copies(folder, objects)
    copies.begin()
    (folder / "late").write_bytes(b"two")
    copies.finish()
    assert (objects.get("inside/events"), objects.get("late")) == (b"one", b"two")


def test_a_copy_that_fails_is_said_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, store = tmp_path / "local", tmp_path / "store"
    folder.mkdir()
    (folder / "events").write_bytes(b"one")
    # A file where the store's folder should be.
    store.mkdir()
    objects = Objects(str(store)).at("logs")
    (store / "logs").write_text("in the way")
    copies = Copies(folder, objects)
    with caplog.at_level(logging.WARNING):
        copies._copy()
        copies._copy()
    assert len([r for r in caplog.records if "cannot be copied" in r.message]) == 1
    (store / "logs").unlink()
    copies.finish()
    assert objects.get("events") == b"one"


def test_what_is_chosen_and_not_installed_is_refused_before_the_work(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writers, "find_spec", lambda name: None)
    config = tiny_config(tmp_path / "run", logging__kind="wandb")
    with pytest.raises(DependencyError, match=r"wandb is not installed.*bathyscope\[wandb\]"):
        run_stages(config)
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_full_is_said_once_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Full:
        def write(self, step: int, scalars: Any) -> None:
            raise OSError(28, "No space left on device")

        def flush(self) -> None: ...

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING), Log(Full()) as log:
        for step in (1, 11, 21):
            log.write(point(step))
    assert [r.message for r in caplog.records] == [
        "The curves are not logged any more: [Errno 28] No space left on device. The training "
        "goes on, and curve.parquet will have them."
    ]


def test_speed_is_rows_over_the_time_between_two_points() -> None:
    times = iter([10.0, 14.0])
    written: list[dict[str, float]] = []

    class Keeps:
        def write(self, step: int, scalars: Any) -> None:
            written.append(scalars)

        def flush(self) -> None: ...

        def close(self) -> None: ...

    with Log(Keeps(), clock=lambda: next(times)) as log:
        log.write(point(1))
        log.write(point(11))
    assert "train/rows_per_s" not in written[0]
    # Ten steps of 256 rows in four seconds.
    assert written[1]["train/rows_per_s"] == 640.0
    assert written[1]["train/tokens"] == 11 * 256


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No service of an earlier test, and nothing outside the test's folder."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
    yield
    import wandb

    wandb.teardown()


@pytest.mark.skipif(MISSING, reason="wandb is not installed")
def test_weights_and_biases_offline(harvested: Callable[..., Config], offline: None) -> None:
    config = harvested(logging__kind="wandb", logging__mode="offline")
    run_stages(config, stages=["train"])
    found = stored_scalars(Path(config.url) / "logs" / "main")
    wanted = expected(Run(config.url))
    for tag, values in wanted.items():
        assert found[tag] == pytest.approx(values, rel=1e-9)


def stored_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value of the one offline run below a folder."""
    from wandb.proto import wandb_internal_pb2

    [file] = folder.rglob("run-*.wandb")
    found: dict[str, dict[int, float]] = {}
    for data in leveldb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for tag in filter(lambda key: key.startswith("train/"), items):
            steps = found.setdefault(tag, {})
            assert record.history.step.num not in steps
            steps[record.history.step.num] = float(items[tag])
    return found


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """Records of a log in LevelDB's format: checksum, length and kind before each piece.

    A file begins with 7 bytes of W&B's own; pieces do not cross blocks of 32 KiB.
    """
    place, whole = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        # 1: a whole record; 2, 3, 4: its first, middle and last piece.
        if kind in (1, 4):
            yield whole
            whole = b""


def point(step: int) -> Point:
    return Point(step, 256 * step, StepFigures(1.0, 0.5, 0.0, 4.0, 0.1, 1e-3))
