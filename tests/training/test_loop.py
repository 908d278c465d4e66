"""The loop: which batches, in which order, what is reported, and that something is learned."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary, topk_autoencoder
from bathyscope.errors import NonFiniteError, StoreError
from bathyscope.metrics.controls import SecondMoments
from bathyscope.training.loop import Plan, Point, Scaled, Trainee, train
from bathyscope.training.step import Step, StepFigures, StepSettings

SIZES = (3, 5)
ORDER = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]


@dataclass
class Numbered:
    """Batch number n is filled with n; epochs have 3 and 5 steps."""

    batch_rows: int = 4
    in_memory: bool = False
    fails_at: int = -1
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def num_steps(self, seed: int, epoch: int) -> int:
        return SIZES[epoch]

    def batch(self, seed: int, epoch: int, step: int) -> Tensor:
        number = len(self.asked)
        self.asked.append((seed, epoch, step))
        self.threads.add(threading.get_ident())
        if number == self.fails_at:
            raise StoreError(f"chunk of step {number} is damaged")
        return torch.full((self.batch_rows, 2), float(number), dtype=torch.bfloat16)


@dataclass
class Recorder:
    """Stands where a step stands and writes down what it gets."""

    rates: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    fails_at: int = -1

    def set_lr(self, lr: float) -> None:
        self.rates.append(lr)

    def step(self, x: Tensor, y: Tensor) -> StepFigures:
        assert x.dtype == torch.float32
        assert y is x
        if len(self.seen) == self.fails_at:
            raise NonFiniteError("the loss became nan")
        self.seen.append(float(x[0, 0]))
        return StepFigures(1.0, 1.0, 0.0, 2.0, 0.0, self.rates[-1])


def plan(epochs: int = 2, log_every: int = 3) -> Plan:
    return Plan(
        epochs=epochs, lr=6.0, warmup_share=0.25, decay_share=0.25, seed=11, log_every=log_every
    )


def test_a_plan_by_steps_takes_as_many_epochs_as_they_need() -> None:
    class Three:
        batch_rows = 4
        in_memory = True

        def num_steps(self, seed: int, epoch: int) -> int:
            return 3

        def batch(self, seed: int, epoch: int, step: int) -> Tensor:
            raise AssertionError("a plan reads nothing")

    def steps(most: int) -> list[tuple[int, int]]:
        return dataclasses.replace(plan(epochs=2), most_steps=most).steps(Three())

    assert steps(2) == [(0, 0), (0, 1)]
    assert steps(7) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert len(steps(0)) == 6


def train_alone(
    step: Any, batches: Any, *, plan: Plan, scaled: Scaled, **settings: Any
) -> list[Point]:
    """Train one dictionary; its curve."""
    trainee = Trainee(step, plan, **settings)
    train([trainee], batches, scaled=scaled)
    if trainee.error is not None:
        raise trainee.error
    return trainee.curve


def scaled(scale: float = 2.0, width: int = 2) -> Scaled:
    dictionary = topk_autoencoder(d_in=width, num_latents=4, k=1, dtype=torch.float32)
    return Scaled(dictionary, torch.full((width,), scale))


def test_every_batch_once_in_order_divided_by_the_scale() -> None:
    batches, recorder = Numbered(), Recorder()
    train_alone(recorder, batches, plan=plan(), scaled=scaled())
    assert batches.asked == [(11, epoch, step) for epoch, step in ORDER]
    assert recorder.seen == [number / 2 for number in range(8)]
    assert recorder.rates == pytest.approx([3, 6, 6, 6, 6, 6, 6, 3])
    assert threading.get_ident() not in batches.threads


@pytest.mark.parametrize(
    ("log_every", "steps"), [(1, [1, 2, 3, 4, 5, 6, 7, 8]), (3, [1, 4, 7, 8]), (100, [1, 8])]
)
def test_points_of_the_curve(log_every: int, steps: list[int]) -> None:
    curve = train_alone(Recorder(), Numbered(), plan=plan(log_every=log_every), scaled=scaled())
    assert [point.step for point in curve] == steps
    assert [point.tokens for point in curve] == [4 * step for step in steps]


def test_the_last_point_is_there_once_when_it_falls_on_the_interval() -> None:
    curve = train_alone(Recorder(), Numbered(), plan=plan(log_every=7), scaled=scaled())
    assert [point.step for point in curve] == [1, 8]


def test_report_hears_of_every_step() -> None:
    told: list[tuple[int, int, int]] = []

    def report(done: int, total: int, point: Point) -> None:
        told.append((done, total, point.step))

    train_alone(Recorder(), Numbered(), plan=plan(), scaled=scaled(), report=report)
    assert told == [(step, 8, step) for step in range(1, 9)]


def test_one_step_is_enough() -> None:
    class One(Numbered):
        def num_steps(self, seed: int, epoch: int) -> int:
            return 1

    curve = train_alone(Recorder(), One(), plan=plan(epochs=1), scaled=scaled())
    assert [(point.step, point.tokens) for point in curve] == [(1, 4)]


@pytest.mark.parametrize("number", [0, 1, 4, 7])
def test_an_error_of_the_reader_reaches_the_caller_after_the_good_batches(number: int) -> None:
    recorder = Recorder()
    with pytest.raises(StoreError, match=f"chunk of step {number} is damaged"):
        train_alone(recorder, Numbered(fails_at=number), plan=plan(), scaled=scaled())
    assert len(recorder.seen) == number


def test_after_an_error_of_the_step_nothing_more_is_read() -> None:
    batches = Numbered()
    with pytest.raises(NonFiniteError):
        train_alone(Recorder(fails_at=2), batches, plan=plan(), scaled=scaled())
    # Batches 0 to 2 were used; up to two more were read ahead.
    assert 3 <= len(batches.asked) <= 5


@dataclass
class Planted:
    """Rows of the planted directions; batch (epoch, step) is a function of its numbers."""

    rows: Callable[[int, int], Tensor]
    batch_rows: int = 256
    in_memory: bool = True

    def num_steps(self, seed: int, epoch: int) -> int:
        return 150

    def batch(self, seed: int, epoch: int, step: int) -> Tensor:
        return self.rows(self.batch_rows, 1000 * (seed + 1) + 300 * epoch + step)


def learn(fresh: Callable[..., Dictionary], rows: Callable[[int, int], Tensor]) -> Dictionary:
    dictionary = fresh()
    step = Step(dictionary, StepSettings(auxk_weight=1 / 32, dead_after_tokens=4096), lr=1e-2)
    settings = Plan(epochs=2, lr=1e-2, warmup_share=0.05, decay_share=0.3, seed=0)
    train_alone(step, Planted(rows), plan=settings, scaled=scaled(1.0, 16))
    return dictionary.requires_grad_(False)


def test_training_finds_the_planted_directions_twice_the_same(
    fresh: Callable[..., Dictionary], planted: Callable[[int, int], Tensor], directions: Tensor
) -> None:
    dictionary = learn(fresh, planted)
    held_out, fitted = planted(4096, 1), SecondMoments(16)
    fitted.update(planted(4096, 2))
    spread = (held_out - held_out.mean(0)).square().sum()
    pca = fitted.fit(dictionary.k).reconstruct(held_out)
    unexplained = float((held_out - dictionary(held_out)).square().sum() / spread)
    unexplained_pca = float((held_out - pca).square().sum() / spread)
    # Three of 16 nearly equal variances: PCA explains about a third. The rows are 3-sparse.
    assert unexplained_pca > 0.5
    assert unexplained < 0.15 < 0.3 * unexplained_pca
    found = (directions @ dictionary.W_dec.T).amax(1)
    assert int((found > 0.9).sum()) >= 28
    again = learn(fresh, planted)
    for name, parameter in dictionary.named_parameters():
        assert torch.equal(getattr(again, name), parameter), name


def test_several_on_the_same_batches_become_what_each_becomes_alone(
    fresh: Callable[..., Dictionary], planted: Callable[[int, int], Tensor]
) -> None:
    rates = (1e-3, 1e-2)

    def trainee(lr: float) -> Trainee:
        settings = StepSettings(auxk_weight=1 / 32, dead_after_tokens=4096)
        step = Step(fresh(), settings, lr=lr)
        return Trainee(step, Plan(epochs=1, lr=lr, warmup_share=0.05, decay_share=0.3, seed=0))

    def weights(trainee: Trainee) -> Tensor:
        return trainee.step.dictionary.parts[0].W_dec

    together = [trainee(lr) for lr in rates]
    train(together, Planted(planted), scaled=scaled(1.0, 16))
    for lr, one in zip(rates, together, strict=True):
        alone = trainee(lr)
        train([alone], Planted(planted), scaled=scaled(1.0, 16))
        assert torch.equal(weights(alone), weights(one))
        assert alone.curve == one.curve


def test_one_that_is_ahead_waits_for_its_first_step() -> None:
    behind, ahead, batches = Recorder(), Recorder(), Numbered()
    trainees = [Trainee(behind, plan(), start=2), Trainee(ahead, plan(), start=5)]  # type: ignore[arg-type]
    train(trainees, batches, scaled=scaled())
    assert behind.seen == [number / 2 for number in range(6)], "the first to be read is number 0"
    assert ahead.seen == [number / 2 for number in range(3, 6)]
    assert ahead.rates == behind.rates[3:]
    assert [(epoch, step) for _, epoch, step in batches.asked] == ORDER[2:]


def test_one_that_diverges_ends_alone() -> None:
    recorders = [Recorder(fails_at=2), Recorder(), Recorder(fails_at=4)]
    trainees = [Trainee(recorder, plan()) for recorder in recorders]  # type: ignore[arg-type]
    train(trainees, Numbered(), scaled=scaled())
    assert [len(recorder.seen) for recorder in recorders] == [2, 8, 4]
    assert "batch 2 of epoch 0, step 2; nothing was saved before" in str(trainees[0].error)
    assert trainees[1].error is None
    assert "batch 1 of epoch 1, step 4" in str(trainees[2].error)
    assert [point.step for point in trainees[1].curve] == [1, 4, 7, 8]
    failing = [Trainee(Recorder(fails_at=n), plan()) for n in (1, 3)]  # type: ignore[arg-type]
    batches = Numbered()
    train(failing, batches, scaled=scaled())
    assert ["step 1;" in str(failing[0].error), "step 3;" in str(failing[1].error)] == [True, True]
    assert len(batches.asked) <= 6, "read ahead, and no more"


def test_rows_in_memory_are_read_by_the_thread_that_trains() -> None:
    for in_memory in (True, False):
        batches = Numbered(in_memory=in_memory)
        train_alone(Recorder(), batches, plan=plan(), scaled=scaled())
        assert (batches.threads == {threading.get_ident()}) == in_memory
