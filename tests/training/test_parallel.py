"""Training over several processes is the training of one: choices, losses, weights, bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from parallel_case import Case, Outcome, free_port, run_case, run_rank, wait_in_vain

from bathyscope.errors import ConfigError
from bathyscope.training.grid import Grid, check_batch, grid_of, share_of_latents
from bathyscope.training.parallel import step_bytes
from bathyscope.training.shard import join_shards, split_tensors

LATENTS, ROWS, BOTH = Grid(1, 4), Grid(4, 1), Grid(2, 2)
CASES: dict[str, tuple[Case, Grid]] = {
    "topk over latents": (Case(), LATENTS),
    "topk over rows": (Case(), ROWS),
    "topk over both": (Case(clip_norm=0.05), BOTH),
    "batch_topk over latents": (Case(activation="batch_topk"), LATENTS),
    "batch_topk over both": (Case(activation="batch_topk"), BOTH),
    "matryoshka over both": (Case(activation="batch_topk", prefixes=(10, 40, 96)), BOTH),
    "jumprelu over both": (Case(activation="jumprelu", preact_weight=0.1), BOTH),
    "relu over both": (Case(activation="relu", k=1, dead_after=64), BOTH),
    "gated over both": (Case(activation="gated", k=1, dead_after=64), BOTH),
    "skip transcoder over both": (Case(kind="skip_transcoder"), BOTH),
    "crosscoder over both": (Case(kind="crosscoder", activation="batch_topk"), BOTH),
    "clt over both": (Case(kind="cross_layer_transcoder"), BOTH),
    "clt batch_topk over latents": (
        Case(kind="cross_layer_transcoder", activation="batch_topk"), LATENTS,
    ),
    "resampled topk over both": (Case(resample_steps=(6, 9)), BOTH),
    "resampled gated over both": (
        Case(activation="gated", k=1, dead_after=64, resample_steps=(4, 8)), BOTH,
    ),
    "resampled clt over both": (Case(kind="cross_layer_transcoder", resample_steps=(6,)), BOTH),
    "float32 over both": (Case(dtype=torch.float32, quantised=True, dead_after=10**6), BOTH),
    "float32 batch_topk": (
        Case(dtype=torch.float32, activation="batch_topk", quantised=True, dead_after=10**6),
        LATENTS,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    """What four processes saw of each case."""
    folder = tmp_path_factory.mktemp("parallel")
    mp.spawn(run_rank, (list(CASES.values()), free_port(), str(folder)), nprocs=4)
    return {
        name: [_read(folder / f"{number}-{rank}.pt") for rank in range(4)]
        for number, name in enumerate(CASES)
    }


def _read(path: Path) -> Outcome:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return Outcome(**found)


def whole(case: Case, grid: Grid, parts: list[Outcome]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        split = split_tensors(case.make())
    return join_shards([parts[rank].tensors for rank in grid.ranks_of_rows(0)], split)


@pytest.mark.parametrize("name", [n for n, (case, _) in CASES.items() if case.dtype.itemsize == 8])
def test_four_processes_train_what_one_trains(
    outcomes: dict[str, list[Outcome]], name: str
) -> None:
    case, grid = CASES[name]
    wanted, parts = run_case(case), outcomes[name]
    assert any(figures[2] > 0 for figures in wanted.figures), "AuxK was never at work"
    for step, figures in enumerate(wanted.figures):
        for part in parts:
            assert part.figures[step] == pytest.approx(figures, rel=1e-9), step
        chosen = torch.cat([part.chosen[step] for part in parts]).sort().values
        assert torch.equal(chosen, wanted.chosen[step]), step
    for key, tensor in whole(case, grid, parts).items():
        torch.testing.assert_close(
            tensor, wanted.tensors[key], rtol=1e-8, atol=1e-10, equal_nan=True
        )
    # What is not split is the same everywhere, to the bit.
    for part in parts[1:]:
        assert torch.equal(part.tensors["b_dec"], parts[0].tensors["b_dec"])


@pytest.mark.parametrize("name", [n for n, (case, _) in CASES.items() if case.dtype.itemsize == 4])
def test_in_float32_the_first_choice_is_the_same_and_losses_stay_close(
    outcomes: dict[str, list[Outcome]], name: str
) -> None:
    case, _ = CASES[name]
    wanted, parts = run_case(case), outcomes[name]
    first = torch.cat([part.chosen[0] for part in parts]).sort().values
    assert torch.equal(first, wanted.chosen[0])
    for step, figures in enumerate(wanted.figures):
        assert parts[0].figures[step][0] == pytest.approx(figures[0], rel=1e-5), step


def test_bytes_of_a_step_are_those_of_the_formula(outcomes: dict[str, list[Outcome]]) -> None:
    case, grid = CASES["float32 over both"]
    rows = case.rows // grid.data
    wanted = step_bytes(grid, rows=rows, d_out=24, k=case.k)
    # One more reconstruction when the first scale of the latents is fitted to all rows of a batch.
    fitted = step_bytes(grid, rows=case.rows, d_out=24, k=case.k)
    for part in outcomes["float32 over both"]:
        for kind, size in wanted.items():
            assert part.bytes_sent[kind] == case.steps * size + fitted[kind], kind


def test_who_is_who() -> None:
    grid = grid_of(6, 2)
    assert grid == Grid(3, 2)
    assert [grid.data_place(rank) for rank in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [grid.latent_place(rank) for rank in range(6)] == [0, 1, 0, 1, 0, 1]
    assert (grid.ranks_of_rows(3), grid.ranks_of_latents(3)) == ([2, 3], [1, 3, 5])
    assert share_of_latents(10, grid, 3) == range(5, 10)


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 processes cannot be divided into sets of 2"):
        grid_of(5, 2)
    with pytest.raises(ConfigError, match=r"multiple of train\.latent_parallel"):
        share_of_latents(11, Grid(1, 2), 0)
    with pytest.raises(ConfigError, match="batch of 10 rows"):
        check_batch(10, None, Grid(4, 1))
    with pytest.raises(ConfigError, match="not whole groups of 8"):
        check_batch(48, 8, Grid(4, 1))
    check_batch(64, 8, Grid(4, 1))
    check_batch(10, 8, Grid(1, 4))


def test_a_case_with_another_seed_is_another_training() -> None:
    case = Case(steps=3)
    assert run_case(case).figures != run_case(replace(case, k=4)).figures


def test_a_process_that_hangs_is_named_after_the_time_that_was_given(tmp_path: Path) -> None:
    mp.spawn(wait_in_vain, (free_port(), str(tmp_path)), nprocs=2)
    said = (tmp_path / "said").read_text()
    assert said.startswith("Rank 0 waited in vain for the others of [0, 1] to exchange sums over")
    assert "goes on from its last checkpoint" in said
