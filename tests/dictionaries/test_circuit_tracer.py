"""Folders that circuit-tracer wrote give here what they give there, and go back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load, load_file, save

from bathyscope.dictionaries.circuit_tracer_files import hook_of, our_hook
from bathyscope.dictionaries.exchange import (
    format_of,
    layers_of,
    name_hook_points,
    needed,
    read_folder,
    same_set,
    set_k,
    write_folder,
)
from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.errors import ConfigError, ModelError

FIXTURES = Path(__file__).parents[1] / "fixtures/circuit_tracer"
SETS = sorted(p for p in FIXTURES.iterdir() if not p.name.startswith("clt"))
CLTS = sorted(FIXTURES.glob("clt_*"))
LAYERS = (0, 1, 2)


def files_of(folder: Path, layer: int | None = None) -> dict[str, bytes]:
    names = [p.name for p in folder.iterdir()]
    return {n: (folder / n).read_bytes() for n in needed(names, "circuit_tracer", layer)}


def dense(dictionary: AnyDictionary, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    latents, out = dictionary.reconstruct(x)
    zeros = torch.zeros(len(x), dictionary.num_latents)
    return zeros.scatter_add(1, latents.indices.long(), latents.values), out


def check(dictionary: AnyDictionary, folder: Path, layer: int | None = None) -> None:
    """Compare with what circuit-tracer gave; a CLT has all layers side by side."""
    expected = load_file(folder / "expected.safetensors")
    x, *wanted = (expected[name] for name in ("x", "latents", "out"))
    if layer is None:
        x, *wanted = (t.transpose(0, 1).flatten(1) for t in (x, *wanted))
    else:
        x, *wanted = (t[layer] for t in (x, *wanted))
    got = dense(dictionary, x)
    assert wanted[0].any()
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_every_layout_has_a_fixture() -> None:
    assert [p.name for p in SETS] == ["jumprelu", "relu", "skip_jumprelu", "skip_relu", "skip_topk"]
    assert [p.name for p in CLTS] == ["clt_jumprelu", "clt_relu"]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("folder", SETS, ids=lambda p: p.name)
def test_a_layer_of_a_set_gives_what_it_gives_there_and_goes_back(folder: Path, layer: int) -> None:
    given = files_of(folder, layer)
    dictionary = read_folder(given)
    check(dictionary, folder, layer)
    assert dictionary.inputs == columns_of([(f"mlp_in.{layer}", 6)])
    assert dictionary.outputs == columns_of([(f"mlp_out.{layer}", 6)])
    written = write_folder(dictionary, "circuit_tracer")
    assert set(written) == set(given)
    check(read_folder(written), folder, layer)
    before, after = (load(f[f"layer_{layer}.safetensors"]) for f in (given, written))
    assert {n: t for n, t in after.items() if n != "k"}.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    configs = [yaml.safe_load(f["config.yaml"]) for f in (given, written)]
    for key in ("model_kind", "feature_input_hook", "feature_output_hook"):
        assert configs[0][key] == configs[1][key]


@pytest.mark.parametrize("folder", CLTS, ids=lambda p: p.name)
def test_a_cross_layer_transcoder_gives_what_it_gives_there_and_goes_back(folder: Path) -> None:
    given = files_of(folder)
    dictionary = read_folder(given)
    check(dictionary, folder)
    assert [b.hook_point for b in dictionary.parts[1].outputs] == ["mlp_out.1", "mlp_out.2"]
    written = write_folder(dictionary, "circuit_tracer")
    assert set(written) == set(given)
    check(read_folder(written), folder)
    for name in set(given) - {"config.yaml"}:
        before, after = load(given[name]), load(written[name])
        assert before.keys() == after.keys()
        assert all(torch.equal(after[n], before[n]) for n in before)


def test_a_topk_layer_says_its_k_and_others_do_not_know_theirs() -> None:
    topk = read_folder(files_of(FIXTURES / "skip_topk", 1))
    written = write_folder(topk, "circuit_tracer")
    assert topk.known_k == load(written["layer_1.safetensors"])["k"] == 4
    # The configuration may lie with other layers: the layer's own file is enough.
    assert read_folder({**written, "config.yaml": b"model_kind: transcoder_set"}).k == 4
    with pytest.raises(ConfigError, match="k 4, with which it encodes"):
        set_k(topk, 3)
    relu = read_folder(files_of(FIXTURES / "relu", 1))
    assert relu.known_k is None
    with pytest.raises(ConfigError, match=r"L0 of this relu dictionary is not known.*convert\.k"):
        _ = relu.k
    again = read_folder(write_folder(relu, "bathyscope"))
    assert again.known_k is None
    set_k(again, 7)
    assert again.k == 7
    with pytest.raises(ConfigError, match=r"convert\.k is 21; wanted 1 to 20"):
        set_k(again, 21)
    clt = read_folder(files_of(CLTS[0]))
    assert clt.known_k is None
    set_k(clt, 5)
    assert clt.k == clt.known_k == 15


def test_batch_topk_becomes_jumprelu() -> None:
    columns = columns_of([("resid_mid.2", 4)]), columns_of([("mlp_out.2", 4)])
    made = make_dictionary("transcoder", *columns, activation="batch_topk", k=2, num_latents=8)
    torch.manual_seed(0)
    for tensor in made.parameters():
        tensor.data.normal_()
    made.parts[0].activation.threshold.fill_(0.3)
    x = torch.randn(16, 4)
    written = write_folder(made, "circuit_tracer")
    assert set(written) == {"config.yaml", "layer_2.safetensors"}
    assert yaml.safe_load(written["config.yaml"])["feature_input_hook"] == "hook_resid_mid"
    back = read_folder(written)
    assert back.parts[0].activation.name == "jumprelu"
    torch.testing.assert_close(back(x), made(x))


NAMES = ["config.yaml", *(f"W_{kind}_{i}.safetensors" for kind in ("enc", "dec") for i in LAYERS)]


@pytest.mark.parametrize(
    ("names", "layer", "message"),
    [
        (["config.yaml", "layer_0.safetensors"], 2, "of layers 0.*got 2"),
        (["config.yaml", "layer_0.safetensors", "layer_1.safetensors"], None, "wanted one of"),
        ([*NAMES, "layer_0.safetensors"], None, "of a set of transcoders .* Keep those of one"),
        (NAMES, 1, "has no layer 1"),
        (NAMES[:-1], None, r"there is no W_dec_2\.safetensors.*there are 0, 1"),
        ([n for n in NAMES if n != "W_enc_1.safetensors"], None, r"no W_enc_1\.safetensors"),
        (NAMES[1:], None, r"config\.yaml is not there"),
    ],
)
def test_missing_layers_and_mixtures_are_named(
    names: list[str], layer: int | None, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        needed(names, "circuit_tracer", layer)


def test_the_format_goes_by_configuration_and_weights() -> None:
    assert format_of(NAMES) == "circuit_tracer"
    with pytest.raises(ModelError, match="may name weights that lie elsewhere"):
        format_of(["config.yaml"])
    with pytest.raises(ModelError, match=r"circuit_tracer: config\.yaml and layer_L"):
        format_of(["layer_0.safetensors"])
    with pytest.raises(ModelError, match="of saelens and of circuit_tracer"):
        format_of([*NAMES, "cfg.json", "sae_weights.safetensors"])
    with pytest.raises(ModelError, match=r"there is no layer_1\.safetensors"):
        layers_of(["layer_0.safetensors", "layer_2.safetensors"], "circuit_tracer")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"model_kind: cross_layer_transcoder", "says model_kind 'cross_layer_transcoder', but"),
        (b"a: [1", r"config\.yaml \(5 bytes\) cannot be read"),
        (b"!!python/object/apply:os.getcwd []", "cannot be read"),
        (b"word", "holds a str; wanted names"),
        (b"{model_kind: transcoder_set, activation: topk}", "'topk' and no k"),
        (b"{model_kind: transcoder_set, activation: gelu}", "'gelu'. Read are relu"),
    ],
)
def test_a_wrong_configuration_is_named(config: bytes, message: str) -> None:
    given = files_of(FIXTURES / "relu", 0)
    with pytest.raises(ModelError, match=message):
        read_folder({**given, "config.yaml": config})


def test_wrong_tensors_are_named() -> None:
    given = files_of(FIXTURES / "jumprelu", 0)
    tensors = load(given["layer_0.safetensors"])

    def read(**changed: torch.Tensor) -> AnyDictionary:
        return read_folder({**given, "layer_0.safetensors": save({**tensors, **changed})})

    with pytest.raises(ModelError, match="belong to different dictionaries"):
        read(W_dec=torch.ones(20, 5))
    with pytest.raises(ModelError, match="belong to different dictionaries"):
        read(log_thresholds=torch.ones(20))
    with pytest.raises(ModelError, match=r"no matrix W_enc .*'W_enc': \(20,\)"):
        read(W_enc=torch.ones(20))
    with pytest.raises(ModelError, match="20 thresholds are negative"):
        read(**{"activation_function.threshold": -torch.ones(20)})
    with pytest.raises(ModelError, match="from safetensors only"):
        read_folder({**given, "layer_0.safetensors": b"\x80\x04pickle"})
    clt = files_of(FIXTURES / "clt_relu")
    other = {"W_enc_1": torch.ones(9, 6), "b_enc_1": torch.ones(9), "b_dec_1": torch.ones(6)}
    with pytest.raises(ModelError, match="belong to different dictionaries"):
        read_folder({**clt, "W_enc_1.safetensors": save(other)})
    with pytest.raises(ModelError, match=r"wanted .*W_dec_0, W_dec_1"):
        read_folder({**clt, "W_dec_1.safetensors": save({"W_dec": torch.ones(20, 2, 6)})})


def made(kind: str, activation: str, reads: list[str], writes: list[str]) -> AnyDictionary:
    columns = (columns_of([(name, 4) for name in names]) for names in (reads, writes))
    return make_dictionary(kind, *columns, activation=activation, k=2, num_latents=8)


@pytest.mark.parametrize(
    ("kind", "activation", "reads", "writes", "message"),
    [
        ("autoencoder", "relu", ["mlp_in.0"], ["mlp_in.0"], "has no autoencoder"),
        ("transcoder", "gated", ["mlp_in.0"], ["mlp_out.0"], "or TopK; this one is gated"),
        (
            "cross_layer_transcoder", "topk", ["mlp_in.0", "mlp_in.1"], ["mlp_out.0", "mlp_out.1"],
            "cross-layer transcoders are ReLU or JumpReLU; this one is topk",
        ),
        ("transcoder", "relu", ["some.path"], ["mlp_out.0"], r"'some\.path' has no name in"),
        ("transcoder", "relu", ["mlp_in.0"], ["blocks.x"], r"'blocks\.x' has no name in"),
        (
            "cross_layer_transcoder", "relu", ["mlp_in.0", "resid_mid.1"],
            ["mlp_out.0", "mlp_out.1"], "one hook at every layer",
        ),
    ],
)  # fmt: skip
def test_what_it_does_not_have_is_refused(
    kind: str, activation: str, reads: list[str], writes: list[str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        write_folder(made(kind, activation, reads, writes), "circuit_tracer")


def test_one_width_is_wanted() -> None:
    columns = columns_of([("mlp_in.0", 4)]), columns_of([("mlp_out.0", 3)])
    narrow = make_dictionary("transcoder", *columns, activation="relu", k=1, num_latents=8)
    with pytest.raises(ModelError, match=r"one width at every layer.*has 3, 4"):
        write_folder(narrow, "circuit_tracer")


def test_hook_points_have_names_in_both() -> None:
    assert hook_of(["mlp_in.0", "mlp_in.7"]) == "mlp.hook_in"
    assert hook_of(["blocks.3.ln2.hook_normalized"]) == "ln2.hook_normalized"
    assert our_hook("hook_resid_mid", 3) == "resid_mid.3"
    assert our_hook("hook_mlp_out", 3) == "blocks.3.hook_mlp_out"


def test_hook_points_can_be_named() -> None:
    clt = read_folder(files_of(CLTS[0]))
    with pytest.raises(ConfigError, match=r"1 names are given \(a\) for 3 hook points"):
        name_hook_points(clt, ["a"], [])
    name_hook_points(clt, ["a", "b", "c"], [])
    assert [b.hook_point for b in clt.inputs] == ["a", "b", "c"]
    assert clt.parts[1].inputs[0].hook_point == "b"
    assert clt.parts[1].outputs[0].hook_point == "mlp_out.1"
    plain = made("autoencoder", "relu", ["a"], ["a"])
    name_hook_points(plain, ["b"], [])
    assert plain.inputs == plain.outputs == columns_of([("b", 4)])


def test_layers_of_a_set_agree() -> None:
    written = write_folder(
        made("transcoder", "relu", ["mlp_in.0"], ["mlp_out.0"]), "circuit_tracer"
    )
    same_set(b"{model_kind: transcoder_set, model_name: tiny}", written)
    with pytest.raises(ConfigError, match="d_model is 5 there and 4 here"):
        same_set(b"{d_model: 5}", written)
