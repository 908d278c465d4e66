"""An interrupted training goes on from its last checkpoint, to the bit; damage is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.errors import NonFiniteError, StoreError
from bathyscope.runs.run import Run
from bathyscope.stages.checkpoints import Checkpoints, Seat
from bathyscope.stages.hook_columns import hook_columns
from bathyscope.stages.trainings import train_one
from bathyscope.stores.objects import Objects
from bathyscope.training import loop as loop_module
from bathyscope.training.grid import Grid
from bathyscope.training.step import State, Step
from support import changed


class Interrupted(Exception):
    """The training was cut off."""


class Cut:
    """A guard that breaks the training off after a share of it."""

    keep, turn = True, None

    def __init__(self, after: float = 2.0) -> None:
        self.after = after

    def check(self) -> None:
        return None

    def progress(self, fraction: float, text: str = "") -> None:
        if fraction >= self.after:
            raise Interrupted


@pytest.fixture(scope="module")
def harvested(
    tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    config = tiny_config(
        tmp_path_factory.mktemp("checkpoints") / "run", dictionary__group_rows=64,
        train__checkpoint_steps=10, train__epochs=2, train__log_every=4,
    )  # fmt: skip
    run_stages(config, stages=["corpus", "harvest"])
    return config


def trained(config: Config, folder: Path, *, after: float = 2.0) -> Any:
    """Train into a folder, from its last checkpoint."""
    columns = hook_columns(config, Run(config.url))
    objects = Objects(str(folder))
    return train_one(config, columns, objects=objects, segment="seg", guard=Cut(after))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dictionary__activation": "batch_topk"},
        {"dictionary__activation": "batch_topk", "dictionary__prefixes": [0.25, 1.0]},
        {"dictionary__activation": "jumprelu"},
        {"train__resample_steps": [5, 13, 17]},
        {"dictionary__activation": "relu", "train__decoder_norm": "free"},
        {"dictionary__activation": "gated", "train__clip_norm": 0.1},
    ],
)
def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(
    harvested: Config, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = changed(harvested, train__dead_after_epochs=0.05, **settings)
    quiet = trained(config, tmp_path / "quiet")
    for after in (0.5, 0.9):
        with pytest.raises(Interrupted):
            trained(config, tmp_path / "cut", after=after)
    names = Objects(str(tmp_path / "cut")).files("checkpoints/seg")
    assert names, "there was a checkpoint"
    again = trained(config, tmp_path / "cut")
    assert again.curve == quiet.curve
    for name, tensor in quiet.dictionary.state_dict().items():
        assert torch.equal(again.dictionary.state_dict()[name], tensor) or tensor.isnan().any()


def test_two_checkpoints_are_kept_and_none_after_the_end(harvested: Config, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        trained(harvested, tmp_path / "cut", after=0.99)
    found = Objects(str(tmp_path / "cut"))
    names = found.files("checkpoints/seg")
    steps = [int(n.removesuffix(".json")) for n in names]
    assert len(steps) == 2
    assert steps[1] - steps[0] == 10
    assert len(found.children("checkpoints/seg")) == 2, "files of older ones are gone"
    shutil.copytree(harvested.url, tmp_path / "run")
    config = changed(harvested, url=str(tmp_path / "run"))
    run_stages(config, stages=["train"])
    assert not list(Run(config.url).objects.walk("dictionaries/main/checkpoints"))


def test_damage_is_named_and_the_checkpoint_before_it_can_be_used(
    harvested: Config, tmp_path: Path
) -> None:
    quiet = trained(harvested, tmp_path / "quiet")
    with pytest.raises(Interrupted):
        trained(harvested, tmp_path / "cut", after=0.99)
    folder = tmp_path / "cut/checkpoints/seg"
    last = max(folder.glob("*.json"))
    weights = next((folder / last.stem).glob("0-of-1.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(StoreError, match=r"0-of-1\.safetensors in .* is damaged.*Remove that step"):
        trained(harvested, tmp_path / "cut")
    last.unlink()
    again = trained(harvested, tmp_path / "cut")
    assert torch.equal(again.dictionary.W_dec, quiet.dictionary.W_dec)


def test_a_loss_that_is_not_finite_names_the_batch_and_what_is_saved(
    harvested: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, real = Step.step, []

    def fails(self: Step, x: torch.Tensor, y: torch.Tensor | None = None) -> Any:
        real.append(1)
        if len(real) == 26:
            x = x * torch.nan
        return step(self, x, x)

    monkeypatch.setattr(Step, "step", fails)
    with pytest.raises(NonFiniteError, match=r"epoch \d, step 25; step 20 is saved"):
        trained(harvested, tmp_path / "cut")
    monkeypatch.undo()
    quiet = trained(harvested, tmp_path / "quiet")
    again = trained(harvested, tmp_path / "cut")
    assert torch.equal(again.dictionary.W_dec, quiet.dictionary.W_dec)


def test_a_training_that_gets_worse_and_worse_is_stopped() -> None:
    divergence = loop_module.Divergence()
    for fvu in (3.0, 0.7, 0.2, 0.9, 1.0):
        divergence.check(fvu)
    with pytest.raises(NonFiniteError, match=r"diverges: FVU is 1\.2 and was 0\.2.*clip_norm"):
        divergence.check(1.2)


def state(latents: int, first: int = 0) -> State:
    rows = torch.arange(first, first + latents, dtype=torch.float32)
    tensors = {
        "W_enc": rows[:, None].repeat(1, 3), "exp_avg/W_enc": -rows[:, None].repeat(1, 3),
        "b_enc": rows.clone(), "silent/0": rows.long(), "b_dec": torch.tensor([7.0]),
        "exp_avg/b_dec": torch.tensor([8.0]),
    }  # fmt: skip
    return State(tensors, {"passes": 1})


@pytest.mark.parametrize("written", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("read", [1, 2, 3, 4, 6])
def test_another_number_of_processes_reads_its_latents(
    tmp_path: Path, written: int, read: int
) -> None:
    objects, split = Objects(str(tmp_path)), {"W_enc": 0, "b_enc": 0}
    each = 12 // written
    with ExitStack() as stack:
        for rank in range(written):
            checkpoints = Checkpoints(objects, "seg", split, Seat(Grid(1, written), rank))
            stack.enter_context(checkpoints)
            checkpoints.write(5, state(each, rank * each), {"curve": [1]})
    wanted, each = state(12), 12 // read
    for rank in range(read):
        found = Checkpoints(objects, "seg", split, Seat(Grid(1, read), rank)).latest()
        assert found is not None
        assert (found.step, found.facts, found.state.facts) == (5, {"curve": [1]}, {"passes": 1})
        mine = slice(rank * each, (rank + 1) * each)
        for name, tensor in wanted.tensors.items():
            share = tensor if name.endswith("b_dec") else tensor[mine]
            assert torch.equal(found.state.tensors[name], share), name


def test_a_checkpoint_without_its_record_does_not_exist(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    checkpoints = Checkpoints(objects, "seg", {"W_enc": 0, "b_enc": 0})
    assert checkpoints.latest() is None
    checkpoints.write(5, state(12), {})
    checkpoints.wait()
    record = json.loads(objects.get("checkpoints/seg/000000000005.json"))
    assert record["places"] == 1
    objects.delete("checkpoints/seg/000000000005.json")
    assert checkpoints.latest() is None
    assert objects.children("checkpoints/seg") == ["000000000005"]
    checkpoints.clear()
    assert objects.children("checkpoints/seg") == [], "what is not whole goes"


def test_the_state_is_copied_before_the_training_goes_on(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    with Checkpoints(objects, "seg", {"W_enc": 0, "b_enc": 0}) as checkpoints:
        changing = state(12)
        checkpoints.write(5, changing, {})
        for tensor in changing.tensors.values():
            tensor.fill_(-100)
    found = checkpoints.latest()
    assert found is not None
    assert all(torch.equal(found.state.tensors[n], t) for n, t in state(12).tensors.items())


def test_a_process_that_does_not_write_its_part_is_named(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    seat = Seat(Grid(1, 2), 0, seconds=0.2)
    checkpoints = Checkpoints(objects, "seg", {"W_enc": 0, "b_enc": 0}, seat)
    checkpoints.write(5, state(6), {})
    with pytest.raises(StoreError, match=r"1-of-2\.json .*not written in 0\.2 seconds.*hangs"):
        checkpoints.wait()
    assert checkpoints.latest() is None
    checkpoints.write(10, state(6), {})
    with pytest.raises(KeyError), checkpoints:
        # Of two errors the one of the training is told.
        raise KeyError
