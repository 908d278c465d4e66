"""Dead latents start anew from rows with a high loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bathyscope.dictionaries.dictionary import Dictionary, topk_autoencoder
from bathyscope.dictionaries.kinds import make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.training.initial import initialise
from bathyscope.training.mesh import Single
from bathyscope.training.resampling import Rows, drawn, resample
from bathyscope.training.step import Step, StepSettings
from bathyscope_kernels import RowSparseAdam


def by_hand() -> tuple[Dictionary, RowSparseAdam]:
    """Three latents in a plane, of which the last is dead; all moments are 1."""
    dictionary = topk_autoencoder(d_in=2, num_latents=3, k=1, dtype=torch.float64)
    state = {
        "W_enc": torch.tensor([[3.0, 0.0], [0.0, 1.0], [5.0, 5.0]]),
        "W_dec": torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]),
        "b_enc": torch.tensor([-0.5, 0.3, -100.0]),
        "b_dec": torch.tensor([1.0, 1.0]),
    }
    dictionary.load_state_dict(state)
    optimizer = RowSparseAdam(dictionary.parameters())
    for parameter in dictionary.parameters():
        moments = {"exp_avg": torch.ones_like(parameter), "exp_avg_sq": torch.ones_like(parameter)}
        optimizer.state[parameter] = {"step": torch.tensor(3.0), **moments}
    return dictionary, optimizer


def test_a_dead_latent_takes_up_the_row_that_has_the_loss() -> None:
    dictionary, optimizer = by_hand()
    before = {name: tensor.clone() for name, tensor in dictionary.state_dict().items()}
    x = torch.tensor([[1.0, 2.0], [4.0, 5.0], [2.0, 1.0]], dtype=torch.float64)
    error = torch.zeros(3, 2, dtype=torch.float64)
    error[1] = torch.tensor([0.1, -0.2])
    done = resample(
        dictionary, optimizer, Rows(x, x, error), (torch.tensor([2]),), Single(), seed=0, step=1
    )
    assert done[0].tolist() == [2]
    # x - b_dec is (3, 4), of norm 5. Alive encoder rows have norms 3, 1 and biases -0.5, 0.3.
    assert dictionary.W_dec[2].tolist() == pytest.approx([0.6, 0.8])
    assert dictionary.W_enc[2].tolist() == pytest.approx([2 * 0.6, 2 * 0.8])
    assert float(dictionary.b_enc[2].detach()) == pytest.approx(-0.1)
    for name, tensor in dictionary.state_dict().items():
        others = slice(0, 2)
        assert torch.equal(tensor[others], before[name][others]), name
    for name, parameter in dictionary.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            wanted = [1.0, 1.0] if name == "b_dec" else [1.0, 1.0, 0.0]
            found = optimizer.state[parameter][moment]
            assert found.view(len(wanted), -1)[:, 0].tolist() == wanted, name


def test_rows_are_drawn_by_the_square_of_their_loss() -> None:
    error = torch.tensor([[1.0], [2.0**0.5], [0.0]])
    firsts = Counter(
        int(drawn(error, 3, 1, Single(), key=(0, step))[0]) for step in range(3000)
    )  # fmt: skip
    # Losses are 1, 2 and 0: chances 1 to 4.
    assert firsts[1] / 3000 == pytest.approx(0.8, abs=0.03)
    assert firsts[2] == 0
    assert sorted(drawn(error, 3, 3, Single(), key=(0, 1)).tolist()) == [0, 1]


def test_the_draw_depends_on_seed_and_step_alone() -> None:
    error = torch.ones(100, 1)
    draws = [drawn(error, 100, 5, Single(), key=key).tolist() for key in ((0, 1), (0, 2), (1, 1))]
    assert draws[0] == drawn(error, 100, 5, Single(), key=(0, 1)).tolist()
    assert draws[0] != draws[1] != draws[2] != draws[0]


def test_more_dead_latents_than_rows_are_resampled_first_ones_first() -> None:
    dictionary, optimizer = by_hand()
    x = torch.tensor([[4.0, 5.0]], dtype=torch.float64)
    dead = (torch.tensor([1, 2]),)
    done = resample(dictionary, optimizer, Rows(x, x, x), dead, Single(), seed=0, step=1)
    assert done[0].tolist() == [1]


def test_what_writes_elsewhere_reads_the_row_and_writes_the_error() -> None:
    read, written = columns_of([("a", 2)]), columns_of([("b", 3)])
    made = make_dictionary(
        "transcoder", read, written, activation="jumprelu", k=1, num_latents=2
    )  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(1.0)
        x, error = torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), torch.zeros(2, 3)
        error[0, 2] = -7.0
        rows = Rows(x, error, error)
        optimizer = RowSparseAdam(made.parameters())
        resample(made, optimizer, rows, (torch.tensor([0]),), Single(), seed=0, step=1)
        part = made.parts[0]
        assert part.W_dec[0].tolist() == [0.0, 0.0, -1.0]
        assert normalize(part.W_enc[0], dim=0).tolist() == pytest.approx([0.6, 0.8])
        assert float(part.activation.get_parameter("threshold")[0]) == pytest.approx(0.2)


@pytest.mark.parametrize("activation", ["topk", "batch_topk", "jumprelu", "relu", "gated"])
def test_dead_latents_fire_after_they_were_resampled(
    planted: Callable[[int, int], Tensor], activation: str
) -> None:
    columns = columns_of([("a", 16)])
    made = make_dictionary(
        "autoencoder", columns, columns, activation=activation, k=3, num_latents=64
    )
    rows = planted(2048, 0)
    initialise(made, x=rows, y=rows, mean=rows.mean(0), seed=0)
    with torch.no_grad():
        made.b_enc[:24] = -100.0
    shares = []
    settings = StepSettings(auxk_weight=0.0, dead_after_tokens=2000, resample_steps=(8,))
    step = Step(made, settings, lr=3e-3)
    for number in range(30):
        step.set_lr(3e-3)
        shares.append(step.step(planted(512, 1 + number)).dead_share)
    assert shares[6] >= 24 / 64
    assert shares[7] == 0
    assert shares[-1] < 0.2
