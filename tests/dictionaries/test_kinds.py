"""Transcoders, crosscoders and CLTs: their algebra, their files, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bathyscope.dictionaries.cross_layer import CrossLayerTranscoder
from bathyscope.dictionaries.crosscoder import Crosscoder
from bathyscope.dictionaries.files import from_files, to_files
from bathyscope.dictionaries.kinds import (
    ACTIVATIONS,
    KINDS,
    AnyDictionary,
    check_columns,
    make_dictionary,
)
from bathyscope.dictionaries.layout import Columns, columns_of
from bathyscope.errors import ConfigError

ONE, OTHER = columns_of([("mlp_in.0", 4)]), columns_of([("mlp_out.0", 3)])
READ = columns_of([("mlp_in.0", 4), ("mlp_in.1", 2), ("mlp_in.2", 5)])
WRITTEN = columns_of([("mlp_out.0", 3), ("mlp_out.1", 2), ("mlp_out.2", 3)])
COLUMNS: dict[str, tuple[Columns, Columns]] = {
    "autoencoder": (ONE, ONE),
    "transcoder": (ONE, OTHER),
    "skip_transcoder": (ONE, OTHER),
    "crosscoder": (READ, READ),
    "cross_layer_transcoder": (READ, WRITTEN),
}


def made(kind: str, activation: str = "topk", dtype: torch.dtype = torch.float32) -> AnyDictionary:
    dictionary = make_dictionary(
        kind, *COLUMNS[kind], activation=activation, k=3, num_latents=20, dtype=dtype
    )
    generator = torch.Generator().manual_seed(0)
    for name, tensor in dictionary.state_dict().items():
        values = torch.randn(tensor.shape, generator=generator)
        tensor.copy_(values.abs() if name.endswith("threshold") else values)
    return dictionary.requires_grad_(False)


def rows(dictionary: AnyDictionary, num: int = 9) -> Tensor:
    return torch.randn(num, dictionary.d_in, generator=torch.Generator().manual_seed(5))


def dense(dictionary: AnyDictionary, x: Tensor) -> Tensor:
    """ŷ of TopK kinds by the plain formula."""
    y_hat = dictionary.b_dec.expand(len(x), -1).clone()
    for part, read, written in zip(
        dictionary.parts, dictionary.read_columns, dictionary.written_columns, strict=True
    ):
        centre = dictionary.b_dec if dictionary.subtracts_b_dec else 0
        pre = torch.relu((x[:, read] - centre) @ part.W_enc.T + part.b_enc)
        z = torch.zeros_like(pre).scatter(1, pre.topk(3).indices, pre.topk(3).values)
        y_hat[:, written] += z @ part.W_dec
    skip = getattr(dictionary, "W_skip", None)
    return y_hat if skip is None else y_hat + x @ skip.T


@pytest.mark.parametrize("kind", KINDS)
def test_the_reconstruction_is_that_of_the_plain_formula(kind: str) -> None:
    dictionary = made(kind)
    x = rows(dictionary)
    torch.testing.assert_close(dictionary(x), dense(dictionary, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_files_give_the_same_tensors_outputs_and_bytes(kind: str, activation: str) -> None:
    dictionary = made(kind, activation)
    written = to_files(dictionary, {"note": 1})
    read = from_files(written["config.json"], written["model.safetensors"])
    assert type(read) is type(dictionary)
    for name, tensor in dictionary.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    x = rows(dictionary)
    assert torch.equal(read(x), dictionary(x))
    assert to_files(read, {"note": 1}) == written


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("same", [True, False])
def test_folded_scales_read_and_write_unscaled_rows(kind: str, activation: str, same: bool) -> None:
    unfolded, folded = made(kind, activation), made(kind, activation)
    inputs = torch.full((folded.d_in,), 2.5)
    outputs = torch.full((folded.d_out,), 2.5)
    if not same:
        for number, block in enumerate(folded.inputs):
            inputs[block.columns] = 1.5 + number
        for number, block in enumerate(folded.outputs):
            outputs[block.columns] = 1.5 + number if inputs.shape == outputs.shape else 7.0 - number
    folded.fold_scales(inputs, outputs)
    x = rows(folded)
    before, after = unfolded.encode(x / inputs), folded.encode(x)
    assert torch.equal(after.indices, before.indices)
    torch.testing.assert_close(folded(x), outputs * unfolded(x / inputs), rtol=2e-5, atol=2e-4)


def test_a_crosscoder_tells_how_its_decoder_rows_spread_over_hook_points() -> None:
    dictionary = made("crosscoder")
    assert isinstance(dictionary, Crosscoder)
    dictionary.normalize_decoder()
    norms = dictionary.decoder_norms()
    assert norms.shape == (20, 3)
    torch.testing.assert_close(norms.square().sum(1), torch.ones(20))
    scales = torch.cat([torch.full((4,), 2.0), torch.full((2,), 3.0), torch.full((5,), 5.0)])
    dictionary.fold_scales(scales, scales)
    torch.testing.assert_close(dictionary.decoder_norms(scales), norms)


def test_a_clt_writes_to_its_own_layer_and_those_after_it() -> None:
    dictionary = made("cross_layer_transcoder")
    assert isinstance(dictionary, CrossLayerTranscoder)
    assert [tuple(part.W_dec.shape) for part in dictionary.parts] == [(20, 8), (20, 5), (20, 3)]
    x = rows(dictionary)
    before, moved = dictionary(x), x.clone()
    moved[:, READ[1].columns] += 1
    changed = (dictionary(moved) - before).abs() > 0
    assert not changed[:, :3].any()
    assert changed[:, 3:5].any()
    assert changed[:, 5:].any()
    latents = dictionary.encode(x)
    assert int(latents.indices.max()) >= 40
    assert (latents.values[:, 1:] <= latents.values[:, :-1]).all()


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "message"),
    [
        ("lorsa", ONE, ONE, "Choose one of autoencoder"),
        ("autoencoder", ONE, OTHER, "writes what it reads"),
        ("autoencoder", READ, READ, "an autoencoder has one"),
        ("crosscoder", ONE, ONE, "a crosscoder several"),
        ("transcoder", ONE, ONE, "one to read and another to write"),
        ("transcoder", READ, WRITTEN, "got 3 hook point"),
        ("cross_layer_transcoder", READ, OTHER, "for each layer"),
    ],
)
def test_hook_points_that_a_kind_cannot_have(
    kind: str, inputs: Columns, outputs: Columns, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_columns(kind, inputs, outputs)


@pytest.mark.parametrize("prefixes", [(5, 5, 20), (0, 20), (5, 10), (30, 20)])
def test_prefixes_that_do_not_ascend_to_all_latents(prefixes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="ascend from at least 1 to 20"):
        make_dictionary(
            "autoencoder", ONE, ONE, activation="topk", k=3, num_latents=20, prefixes=prefixes
        )


def test_a_clt_has_no_prefixes() -> None:
    with pytest.raises(ConfigError, match="no prefixes"):
        make_dictionary(
            "cross_layer_transcoder", READ, WRITTEN, activation="topk", k=3, num_latents=20,
            prefixes=(10, 20),
        )  # fmt: skip


def test_b_dec_cannot_be_subtracted_from_another_width() -> None:
    with pytest.raises(ConfigError, match="inputs of width 4, but it has 3"):
        make_dictionary(
            "transcoder", ONE, OTHER, activation="topk", k=3, num_latents=20, subtracts_b_dec=True
        )
