"""Row gradients of lists on the GPU kernels: those of the CPU's, in its order of latents."""

from types import SimpleNamespace

import pytest
import torch

from bathyscope_kernels import row_gradients as cpu
from bathyscope_kernels.gpu import row_gradients as gpu
from bathyscope_kernels.workspace import WORKSPACE_BYTES

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize(("rows", "k", "d"), [(9, 3, 33), (1, 1, 8)])
def test_gradients_are_those_of_the_cpu(
    oracle: SimpleNamespace, device: torch.device, rows: int, k: int, d: int
) -> None:
    # In eighths every sum is exact, whatever its order.
    latents = 40
    indices = oracle.normal(rows, latents, seed=1).topk(k).indices.to(torch.int32)
    used = oracle.normal(rows, k, seed=2) > -0.5
    used[0, 0] = True
    # Some entries have the value 0.
    values = oracle.eighths(rows, k, seed=3, low=0).masked_fill(~used, 0)
    indices = indices.masked_fill(~used, 0)
    grad, x = oracle.eighths(rows, d, seed=4), oracle.eighths(rows, d, seed=5)
    W_dec = oracle.eighths(latents, d, seed=6)
    wanted, wanted_dots = cpu.of_decoder(grad, values, indices, used, W_dec, WORKSPACE_BYTES)
    on = [t.to(device) for t in (grad, values, indices, used, W_dec)]
    found, dots = gpu.of_decoder(*on)
    assert torch.equal(found.latents.cpu(), wanted.latents)
    assert torch.equal(found.rows.cpu(), wanted.rows)
    assert torch.equal(dots.cpu(), wanted_dots)
    wanted = cpu.of_encoder(values, indices, used, x, latents)
    found = gpu.of_encoder(*(t.to(device) for t in (values, indices, used, x)), latents)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.cpu(), other)
