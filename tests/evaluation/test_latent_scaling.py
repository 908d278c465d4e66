"""Latent scaling by hand: what is shared, what is exclusive, and what only looks so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bathyscope.dictionaries.crosscoder import Crosscoder
from bathyscope.dictionaries.layout import columns_of
from bathyscope.dictionaries.topk import TopK
from bathyscope.errors import ConfigError
from bathyscope.evaluation.latent_scaling import LatentScaling, Scaling

D = 6
SCALES = torch.cat([torch.full((D,), 2.0), torch.full((D,), 5.0)]).double()
"""Of the hook points a and b."""


def crosscoder(rows: Tensor, widths: tuple[int, int] = (D, D)) -> Crosscoder:
    """One whose decoder has these rows [latents, 2, d], in the scale of training."""
    columns = columns_of([("a", widths[0]), ("b", widths[1])])
    made = Crosscoder(columns, columns, TopK(1, len(rows), torch.float64), dtype=torch.float64)
    with torch.no_grad():
        if widths == (D, D):
            made.W_dec.copy_(rows.flatten(1) * SCALES)
        assert made.b_dec is not None
        made.b_dec.fill_(0.5)
    return made


def decoders() -> Tensor:
    """Orthogonal directions: 0 shared, 1 exclusive to a, 2 shrunk at b, 3 and 4 decoupled."""
    rows = torch.zeros(6, 2, D, dtype=torch.float64)
    rows[0, :, 0] = 1.0
    rows[1, 0, 1] = 1.0
    rows[2, 0, 2] = 1.0
    rows[3, 0, 3], rows[4, 1, 3] = 1.0, 1.0
    rows[5, 1, 4] = 1.0
    return rows


def scaled(streams: int = 1) -> Scaling:
    """Rows where latent 2's direction is in b as well, though its decoder row is not."""
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(600, 6, generator=generator, dtype=torch.float64)
    z *= torch.rand(z.shape, generator=generator, dtype=torch.float64) < 0.5
    # 3 and 4 are one concept: active together, one writes to a and the other to b.
    z[:, 4] = z[:, 3]
    z[:, 5] = 0
    made = crosscoder(decoders())
    truth = decoders().clone()
    truth[2, 1, 2] = 0.8
    x = torch.einsum("rf,fhd->rhd", z, truth).flatten(1) * SCALES + 0.5
    x_hat = torch.einsum("rf,fhd->rhd", z, decoders()).flatten(1) * SCALES + 0.5
    found = LatentScaling(made, SCALES)
    for rows in torch.arange(600).split(600 // streams):
        indices = torch.arange(6, dtype=torch.int32).expand(len(rows), 6)
        found.update(z[rows], indices, x[rows], x_hat[rows])
    return found.result()


def test_norms_and_scalings_are_those_of_the_plant() -> None:
    found = scaled()
    assert found.share[0].tolist() == pytest.approx([0.5, 0.5])
    assert found.beta_error[0].tolist() == pytest.approx([1.0, 1.0])
    assert found.nu_error[1, 1] == pytest.approx(0.0, abs=1e-9)
    assert found.nu_error[2, 1] == pytest.approx(0.8)
    # What latent 3 would write to b is written by latent 4.
    assert found.nu_error[3, 1] == pytest.approx(0.0, abs=1e-9)
    assert found.nu_reconstruction[3].tolist() == pytest.approx([1.0, 1.0])
    assert found.nu_reconstruction[1:3, 1].tolist() == pytest.approx([0.0, 0.0], abs=1e-9)
    assert found.num_rows[5] == 0
    assert found.nu_error[5].isnan().all()


def test_sparsity_artefacts_are_unmasked() -> None:
    found = scaled()
    # By norm alone latents 1 to 3 belong to a, and 4 and 5 to b.
    assert found.by_norm.tolist() == [-1, 0, 0, 0, 1, 1]
    assert found.exclusive.tolist() == [-1, 0, -1, -1, -1, -1]


def test_a_stream_of_blocks_gives_the_same() -> None:
    for one, other in zip(scaled(), scaled(streams=5), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_beta_is_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(3, 2, D, generator=generator, dtype=torch.float64)
    made = crosscoder(rows)
    z = torch.rand(200, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(200, 2 * D, generator=generator, dtype=torch.float64)
    x_hat = torch.einsum("rf,fhd->rhd", z, rows).flatten(1) * SCALES + 0.5
    found = LatentScaling(made, SCALES)
    found.update(z, torch.arange(3).expand(200, 3), x, x_hat)
    result = found.result()
    for latent in range(3):
        best = int(rows[latent].norm(dim=1).argmax())
        basis = (z[:, latent, None] * rows[latent, best]).flatten()[:, None]
        for hook in range(2):
            block = slice(hook * D, (hook + 1) * D)
            own = z[:, latent, None] * rows[latent, hook]
            error = ((x - x_hat) / SCALES)[:, block] + own
            written = ((x_hat - 0.5) / SCALES)[:, block]
            for got, target in (
                (result.beta_error, error), (result.beta_reconstruction, written),
            ):  # fmt: skip
                wanted = torch.linalg.lstsq(basis, target.flatten()[:, None]).solution
                assert float(got[latent, hook]) == pytest.approx(float(wanted), rel=1e-9)


def test_directions_of_other_widths_are_refused() -> None:
    made = crosscoder(torch.zeros(2, 2, D), widths=(D, D + 1))
    with pytest.raises(ConfigError, match="needs one width"):
        LatentScaling(made, torch.ones(2 * D + 1))
