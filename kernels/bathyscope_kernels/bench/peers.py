"""Other libraries that do the same, where they are installed.

Each function imports what it needs when it is called, and raises Skip with the reason if that
does not work. Nothing here is needed by anything but the benchmark.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels.bench.measure import Skip

PACKAGES = {"sparsify": "eai-sparsify", "sae_lens": "sae-lens"}
"""Module -> package."""

LR = 1e-4


def versions() -> dict[str, str]:
    """Return the versions of the peers that are installed."""
    found = {}
    for module, package in PACKAGES.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[module] = importlib.metadata.version(package)
    return found


def sparsify_encoder(device: torch.device) -> Callable[..., Any]:
    """sparsify's fused_encoder(x, weight, bias, k, "topk")."""
    _prepare_sparsify(device)
    return _load("sparsify.fused_encoder").fused_encoder


def sparsify_decoder(device: torch.device) -> Callable[..., Tensor]:
    """sparsify's decoder_impl(indices, values, W_dec^T)."""
    _prepare_sparsify(device)
    return _load("sparsify.utils").decoder_impl


def sparsify_step(W: Tensor, k: int) -> Callable[[Tensor], None]:
    """A training step of sparsify's SparseCoder from weights W [latents, d], with fused Adam."""
    _prepare_sparsify(W.device)
    coder, config = _load("sparsify.sparse_coder"), _load("sparsify.config")
    latents, d = W.shape
    made = config.SparseCoderConfig(num_latents=latents, k=k)
    sae = coder.SparseCoder(d, made, device=W.device, dtype=torch.float32)
    with torch.no_grad():
        sae.encoder.weight.copy_(W)
        sae.W_dec.copy_(W)
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR, fused=True)

    def step(x: Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        sae(x).fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sae_lens_step(W: Tensor, k: int) -> Callable[[Tensor], None]:
    """A training step of SAELens's TopK from weights W [latents, d], as its trainer does it."""
    topk, base = _load("sae_lens.saes.topk_sae"), _load("sae_lens.saes.sae")
    latents, d = W.shape
    config = topk.TopKTrainingSAEConfig(
        d_in=d, d_sae=latents, k=k, dtype="float32", device=str(W.device)
    )
    sae = topk.TopKTrainingSAE(config)
    with torch.no_grad():
        sae.W_enc.copy_(W.T)
        sae.W_dec.copy_(W)
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)

    def step(x: Tensor) -> None:
        given = base.TrainStepInput(
            sae_in=x,
            coefficients={},
            dead_neuron_mask=None,
            n_training_steps=1,
            is_logging_step=False,
        )
        sae.training_forward_pass(given).loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _prepare_sparsify(device: torch.device) -> None:
    # sparsify picks its Triton decoder wherever triton is installed, even without a GPU, and reads
    # this variable only while it is imported.
    if device.type != "cuda":
        os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")


def _load(module: str) -> Any:
    """Import a module without what it prints and warns about; raise Skip if it cannot be."""
    root = module.partition(".")[0]
    if importlib.util.find_spec(root) is None:
        raise Skip("not installed")
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except Exception as error:
        raise Skip(f"import of {module} failed: {type(error).__name__}: {error}") from error
