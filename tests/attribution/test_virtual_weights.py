"""Virtual weights are the straight paths of a graph without norm scales; co-activation by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bathyscope.attribution.graphs.replacement import Part, Replacement
from bathyscope.attribution.virtual_weights import VirtualWeights, virtual_weights, weighted
from bathyscope.errors import ConfigError
from bathyscope.models.families import family_of
from decoders import DECODERS, LAYERS, decoder, random_dictionary
from row_cases import transcoders


def parts_of(family: str, kind: str = "transcoder") -> tuple[Part, ...]:
    return Replacement(decoder(family), transcoders(kind)).parts


def dense(edges: VirtualWeights, shape: tuple[int, int]) -> np.ndarray:
    found = np.zeros(shape)
    found[edges.targets, edges.sources] = edges.values
    return found


@pytest.mark.parametrize("family", sorted(DECODERS))
def test_every_family_against_its_norms(family: str) -> None:
    """The gain of a norm is what it gives for rows whose scale is 1."""
    model, parts = decoder(family), parts_of(family)
    table = family_of(model.config)
    assert table is not None
    n, last = 24, parts[LAYERS - 1]
    found = dense(virtual_weights(model, parts[0], last, most=n), (n, n))
    rows = parts[0].coder.W_dec.double()
    for path in (table.mlp_write and f"{table.blocks}.0.{table.mlp_write}",
                 f"{table.blocks}.{LAYERS - 1}.{table.mlp_norm}"):  # fmt: skip
        if path:
            norm = model.get_submodule(path)
            weight = norm.weight.double() + (1 if table.gain_from_one else 0)
            centred = "RMS" not in type(norm).__name__
            rows = (rows - rows.mean(1, keepdim=True) if centred else rows) * weight
    np.testing.assert_allclose(found, last.coder.W_enc.double() @ rows.T, rtol=1e-4, atol=1e-5)


def test_only_the_largest_of_each_target_are_kept() -> None:
    model, parts = decoder("llama"), parts_of("llama")
    whole = dense(virtual_weights(model, parts[0], parts[1], most=100), (24, 24))
    some = virtual_weights(model, parts[0], parts[1], most=3)
    assert np.bincount(some.targets).tolist() == [3] * 24
    for t in range(24):
        best = np.sort(np.abs(whole[t]))[-3:]
        np.testing.assert_allclose(np.sort(np.abs(some.values[some.targets == t])), best, rtol=1e-6)


def test_a_cross_layer_transcoder_sums_what_it_writes_before_the_target() -> None:
    model, parts = decoder("llama"), parts_of("llama", "cross_layer_transcoder")
    found = dense(virtual_weights(model, parts[0], parts[2], most=24), (24, 24))
    gain = model.model.layers[2].post_attention_layernorm.weight
    rows = parts[0].coder.W_dec.view(24, 3, -1)[:, :2].sum(1)
    wanted = parts[2].coder.W_enc @ (rows * gain).T
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gptj", "llama"])
def test_nothing_goes_back_or_into_its_own_mlp(family: str) -> None:
    model, parts = decoder(family), parts_of(family)
    with pytest.raises(ConfigError, match=r"'t1' writes \(mlp_out.1\) lies before 'mlp_in.1'"):
        virtual_weights(model, parts[1], parts[1], most=2)


def test_ways_into_the_stream_that_are_not_known_are_refused() -> None:
    model = decoder("llama")
    odd = random_dictionary("transcoder", ["model.layers.1.mlp"], ["mlp_out.2"])
    part = Replacement(model, {"odd": odd}).parts[0]
    with pytest.raises(ConfigError, match=r"How 'model.layers.1.mlp' reads the residual stream"):
        virtual_weights(model, parts_of("llama")[0], part, most=2)


def test_co_activation_by_hand() -> None:
    """Two edges, three rows in two blocks: E[a_t a_s] / E[a_t]."""
    edges = VirtualWeights(np.array([0, 2, 1]), np.array([1, 0, 1]), np.float32([2.0, -1.0, 5.0]))

    def rows(*active: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
        values, latents = np.zeros((len(active), 2), np.float32), np.zeros((len(active), 2), int)
        for row, one in enumerate(active):
            for slot, (latent, value) in enumerate(one.items()):
                latents[row, slot], values[row, slot] = latent, value
        return values, latents

    blocks = [
        (rows({1: 3.0}, {0: 1.0, 1: 1.0}), rows({0: 2.0}, {0: 4.0})),
        (rows({0: 0.5}), rows({2: 8.0})),
    ]
    found = weighted(edges, blocks).weighted
    # Latent 0 of the target: (2 * 3 + 4 * 1) / (2 + 4); latent 2: 8 * 0.5 / 8; latent 1: never.
    assert found is not None
    np.testing.assert_allclose(found, [2 * 10 / 6, -0.5, 0.0])
    none = weighted(edges, []).weighted
    assert none is not None
    assert none.tolist() == [0, 0, 0]


def test_dtypes_and_devices_stay_with_the_dictionaries() -> None:
    edges = virtual_weights(decoder("gpt2"), *parts_of("gpt2")[:2], most=5)
    assert edges.values.dtype == np.float32
    assert edges.targets.dtype == np.int64
    assert torch.isfinite(torch.from_numpy(edges.values)).all()
