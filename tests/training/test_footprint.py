"""What a training takes of memory: by formula, by part of a grid, and refused where it is short."""

from __future__ import annotations

import re

import pytest
import torch

from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.errors import ConfigError
from bathyscope.training.footprint import Footprint, check_memory, footprint, together
from bathyscope.training.grid import Grid
from bathyscope.training.step import Step, StepSettings

D, LATENTS, K, ROWS = 64, 4096, 8, 256


def made(
    activation: str = "topk",
    kind: str = "autoencoder",
    reads: int = 1,
    *,
    latents: int = LATENTS,
    device: str = "meta",
) -> AnyDictionary:
    inputs = columns_of([(f"in{number}", D) for number in range(reads)])
    outputs = columns_of([(f"out{number}", D) for number in range(reads)])
    writes = outputs if "transcoder" in kind else inputs
    with torch.device(device):
        return make_dictionary(
            kind, inputs, writes, activation=activation, k=K, num_latents=latents
        )


def test_weights_and_moments_of_a_topk_autoencoder_by_hand() -> None:
    found = footprint(made(), batch_rows=ROWS, auxk=False)
    weights = 4 * (2 * LATENTS * D + LATENTS + D)
    assert found.weights == weights
    assert found.adam == 2 * weights + 8 * LATENTS
    # A copy, the file as it is put together, and as it is handed on.
    assert found.checkpoint == 3 * (found.weights + found.adam)
    # 256 rows of 8 latents list 2,048 of 4,096 at most; the biases' gradients are dense.
    assert found.gradients == ROWS * K * 4 * 2 * D + 4 * (LATENTS + D)
    assert found.total == sum(found)


@pytest.mark.parametrize(
    ("activation", "more"), [("jumprelu", LATENTS), ("gated", 2 * LATENTS), ("relu", 0)]
)
def test_what_kinds_hold_beside_both_matrices(activation: str, more: int) -> None:
    plain, found = (footprint(made(a), batch_rows=ROWS) for a in ("topk", activation))
    assert found.weights == plain.weights + 4 * more
    assert found.adam == plain.adam + 2 * 4 * more


def test_batch_topk_has_a_threshold_without_moments() -> None:
    plain, found = (footprint(made(a), batch_rows=ROWS) for a in ("topk", "batch_topk"))
    assert (found.weights, found.adam) == (plain.weights + 4, plain.adam)


@pytest.mark.parametrize(
    ("kind", "reads"),
    [
        ("transcoder", 1),
        ("skip_transcoder", 1),
        ("crosscoder", 3),
        ("cross_layer_transcoder", 3),
    ],
)
def test_state_of_every_kind_is_what_a_step_holds(kind: str, reads: int) -> None:
    dictionary = made("topk", kind, reads, latents=128, device="cpu")
    planned = footprint(dictionary, batch_rows=ROWS)
    step = Step(dictionary, StepSettings(auxk_weight=0.0, dead_after_tokens=10**6), lr=1e-3)
    for parameter in dictionary.parameters():
        torch.nn.init.normal_(parameter)
    step.step(torch.randn(ROWS, dictionary.d_in), torch.randn(ROWS, dictionary.d_out))
    state = step.state().tensors.values()
    assert planned.weights + planned.adam == sum(t.numel() * t.element_size() for t in state)


def test_latents_are_split_and_the_rest_is_not() -> None:
    whole, part = (
        footprint(made(), batch_rows=ROWS, grid=grid) for grid in (Grid(), Grid(latents=4))
    )
    assert part.weights - 4 * D == (whole.weights - 4 * D) / 4
    assert part.adam - 8 * D == (whole.adam - 8 * D) / 4
    assert part.gradients < whole.gradients / 2


def test_processes_with_other_rows_hold_as_much_and_step_on_less() -> None:
    whole, part = (
        footprint(made(), batch_rows=64 * ROWS, grid=grid) for grid in (Grid(), Grid(data=4))
    )
    assert (part.weights, part.adam) == (whole.weights, whole.adam)
    assert part.workspace < whole.workspace


def test_latents_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="4096 latents cannot be split over 3"):
        footprint(made(), batch_rows=ROWS, grid=Grid(latents=3))


def test_more_rows_dead_latents_and_clipping_take_more() -> None:
    def total(rows: int = 16 * ROWS, **settings: float | bool) -> int:
        # So many latents that their gradients outweigh what one encode works in.
        found = footprint(made(latents=2**18), batch_rows=rows, **settings)  # type: ignore[arg-type]
        return found.total

    assert total(64 * ROWS) > total()
    # While a batch is encoded there are no gradients, so a few more need not show.
    assert total(auxk=False) <= total() < total(dead_share=0.5)
    assert total(clips=True) > total()
    assert total(checkpoints=False) < total()
    assert total(reader_bytes=1000) == total() + 1000


def test_of_several_the_state_adds_up_and_the_largest_step_counts() -> None:
    small = Footprint(weights=1, gradients=10, adam=2, workspace=5, checkpoint=9, reader=7)
    large = Footprint(weights=2, gradients=20, adam=4, workspace=4, checkpoint=18, reader=7)
    both = together([small, large])
    # Copies and files of both, and what one file is put together from.
    assert both == Footprint(3, 20, 6, 5, 2 * 3 + 2 * 6 + 6, 7)
    assert together([small]) == small


def test_what_does_not_fit_is_refused_with_figures_and_advice() -> None:
    needed = Footprint(2 * 10**9, 10**9, 4 * 10**9, 5 * 10**8, 18 * 10**9)
    check_memory([needed], needed.total)
    with pytest.raises(ConfigError) as raised:
        check_memory([needed], needed.total - 1)
    said = str(raised.value)
    for word in (
        "25.50 GB of memory", "and 25.50 GB are free", "a checkpoint on its way 18.00 GB",
        "Adam 4.00 GB", "train.batch_rows", "train.latent_parallel",
    ):  # fmt: skip
        assert word in said
    assert "sweep.together" not in said
    assert re.search(r"a checkpoint.*Adam.*weights.*gradients.*a step 500 MB", said)


def test_several_that_do_not_fit_could_be_fewer() -> None:
    needed = Footprint(10**9, 0, 2 * 10**9, 0, 0)
    check_memory([needed] * 3, 9 * 10**9)
    with pytest.raises(ConfigError, match=r"3 dictionaries together needs 9.00 GB.*smaller sweep"):
        check_memory([needed] * 3, 9 * 10**9 - 1)


def test_gpu_and_host_are_checked_apart() -> None:
    needed = Footprint(weights=4, gradients=3, adam=8, workspace=1, checkpoint=36, reader=2)
    check_memory([needed], 16, host_available=38)
    with pytest.raises(ConfigError, match="GPU's memory"):
        check_memory([needed], 15, host_available=38)
    with pytest.raises(ConfigError, match="host's memory"):
        check_memory([needed], 16, host_available=37)
