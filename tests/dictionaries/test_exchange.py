"""Folders that other projects' packages wrote give here what they give there, and go back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from bathyscope.dictionaries.dictionary import topk_autoencoder
from bathyscope.dictionaries.exchange import format_of, read_folder, write_folder
from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.errors import ModelError

FIXTURES = Path(__file__).parents[1] / "fixtures"
FOLDERS = [
    *sorted(FIXTURES.glob("saelens/*")), *sorted(FIXTURES.glob("sparsify/*")),
]  # fmt: skip
WRITTEN = {
    "batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu",
}  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "expected.safetensors"}


def outputs(dictionary: AnyDictionary, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    latents, out = dictionary.reconstruct(x)
    dense = torch.zeros(len(x), dictionary.num_latents)
    return dense.scatter_add(1, latents.indices.long(), latents.values), out


def test_every_architecture_has_a_fixture() -> None:
    assert len(FOLDERS) == 17


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_what_another_package_wrote_gives_what_it_gives_there(folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    latents, out = outputs(read_folder(files_of(folder)), expected["x"])
    torch.testing.assert_close(latents, expected["latents"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out, expected["out"], rtol=1e-5, atol=1e-5)
    assert expected["latents"].any()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_it_goes_back_with_the_same_outputs(folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    given = files_of(folder)
    written = write_folder(read_folder(given), folder.parent.name)
    assert set(written) == set(given)
    latents, out = outputs(read_folder(written), expected["x"])
    torch.testing.assert_close(latents, expected["latents"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out, expected["out"], rtol=1e-5, atol=1e-5)
    before, after = json.loads(given["cfg.json"]), json.loads(written["cfg.json"])
    if "architecture" in before:
        wanted = WRITTEN.get(before["architecture"], before["architecture"])
        assert after["architecture"] == wanted
    for key in ("d_in", "d_sae", "k", "transcode", "skip_connection", "apply_b_dec_to_input"):
        if key in after and key in before:
            assert after[key] == before[key], key


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "nothing, which is no format"),
        (["cfg.json", "ae.pt"], "ae.pt may be pickles, which are never loaded"),
        (["cfg.json", "sae_weights.safetensors", "sae.safetensors"], "of saelens and of sparsify"),
        (["config.json"], r"Wanted bathyscope: config\.json and model\.safetensors"),
    ],
)
def test_unknown_and_mixed_formats_are_named(names: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        format_of(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "temporal"}, "architecture 'temporal'.*Read are standard"),
        ({"normalize_activations": "layer_norm"}, "changes every row"),
        ({"architecture": "jumprelu"}, "no 'threshold', which a 'jumprelu' has"),
        ({"architecture": "skip_transcoder"}, "no 'W_skip'"),
    ],
)
def test_what_cannot_be_read_from_saelens(change: dict[str, str], message: str) -> None:
    given = files_of(FIXTURES / "saelens/standard")
    config = {**json.loads(given["cfg.json"]), **change}
    with pytest.raises(ModelError, match=message):
        read_folder({**given, "cfg.json": json.dumps(config).encode()})


def test_an_l0_that_the_file_does_not_say_is_not_made_up() -> None:
    for name in ("standard", "jumprelu", "gated"):
        dictionary = read_folder(files_of(FIXTURES / "saelens" / name))
        assert dictionary.known_k is None
        written = write_folder(dictionary, "bathyscope")
        assert json.loads(written["config.json"])["k"] is None
        assert read_folder(written).known_k is None
    batch_topk = read_folder(files_of(FIXTURES / "saelens/batchtopk"))
    written = write_folder(batch_topk, "saelens")
    assert json.loads(written["cfg.json"])["architecture"] == "jumprelu"
    assert read_folder(written).k == batch_topk.k == 4
    given = files_of(FIXTURES / "saelens/topk")
    config = {k: v for k, v in json.loads(given["cfg.json"]).items() if k != "k"}
    with pytest.raises(ModelError, match="topk encodes with it"):
        read_folder({**given, "cfg.json": json.dumps(config).encode()})


def test_damaged_and_missing_files_are_named() -> None:
    given = files_of(FIXTURES / "sparsify/sae")
    with pytest.raises(ModelError, match="from safetensors only"):
        read_folder({**given, "sae.safetensors": b"\x80\x04pickle"})
    with pytest.raises(ModelError, match=r"sae\.safetensors is not there"):
        read_folder({"cfg.json": given["cfg.json"]}, format="sparsify")
    config = {**json.loads(given["cfg.json"]), "activation": "groupmax"}
    with pytest.raises(ModelError, match="activation 'groupmax'"):
        read_folder({**given, "cfg.json": json.dumps(config).encode()})
    weights = {"encoder.weight": torch.ones(5, 2), "W_dec": torch.ones(5, 2)}
    with pytest.raises(ModelError, match="belong to different dictionaries"):
        read_folder({**given, "sae.safetensors": save(weights)})
    weights["encoder.weight"] = torch.ones(3, 2)
    with pytest.raises(
        ModelError, match=r"does not describe a dictionary .*k is 4 and .* 3 latents"
    ):
        read_folder({**given, "sae.safetensors": save(weights)})
    with pytest.raises(ModelError, match="'gemma' is unknown"):
        read_folder(given, format="gemma")


def test_what_a_format_does_not_have_is_refused() -> None:
    read, written = columns_of([("a", 4)]), columns_of([("b", 3)])
    transcoder = make_dictionary("transcoder", read, written, activation="topk", k=1, num_latents=8)
    with pytest.raises(ModelError, match="SAELens has no topk transcoder"):
        write_folder(transcoder, "saelens")
    with pytest.raises(ModelError, match="reads 4 and writes 3"):
        write_folder(transcoder, "sparsify")
    relu = make_dictionary("autoencoder", read, read, activation="relu", k=1, num_latents=8)
    with pytest.raises(ModelError, match="sparsify has no relu autoencoder"):
        write_folder(relu, "sparsify")
    own = topk_autoencoder(d_in=4, num_latents=8, k=2, dtype=torch.float32)
    assert set(write_folder(own, "bathyscope")) == {"config.json", "model.safetensors"}
