"""Row gradients of entries on the GPU kernels: those of the CPU's, in its order of latents."""

from types import SimpleNamespace

import pytest
import torch

from bathyscope_kernels import row_gradients as cpu
from bathyscope_kernels.gpu import row_gradients as gpu
from bathyscope_kernels.ragged import Ragged
from bathyscope_kernels.workspace import WORKSPACE_BYTES

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize(("rows", "d"), [(9, 33), (1, 8)])
def test_gradients_are_those_of_the_cpu(
    oracle: SimpleNamespace, device: torch.device, rows: int, d: int
) -> None:
    # In eighths every sum is exact, whatever its order.
    latents = 40
    used = oracle.normal(rows, latents, seed=1) > 1.2
    used[0, 3] = True
    # Some entries have the value 0.
    values = oracle.eighths(rows, latents, seed=3, low=0)[used]
    offsets = torch.nn.functional.pad(used.sum(1).cumsum(0), (1, 0))
    entries = Ragged(values, used.nonzero()[:, 1].to(torch.int32), offsets)
    grad, x = oracle.eighths(rows, d, seed=4), oracle.eighths(rows, d, seed=5)
    W_dec = oracle.eighths(latents, d, seed=6)
    on = Ragged(*(t.to(device) for t in entries))
    wanted, wanted_dots = cpu.of_decoder(grad, entries, W_dec, WORKSPACE_BYTES)
    found, dots = gpu.of_decoder(grad.to(device), on, W_dec.to(device))
    assert torch.equal(found.latents.cpu(), wanted.latents)
    assert torch.equal(found.rows.cpu(), wanted.rows)
    assert torch.equal(dots.cpu(), wanted_dots)
    wanted = cpu.of_encoder(entries, x, latents, WORKSPACE_BYTES)
    found = gpu.of_encoder(on, x.to(device), latents)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.cpu(), other)
