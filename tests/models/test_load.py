"""A loaded model computes what transformers' own computes, however it is cut, cast and placed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from bathyscope.errors import ModelError
from bathyscope.models.capture import capture
from bathyscope.models.load import load_model, read_config
from bathyscope.models.splice import spliced

F32 = torch.float32
HALF_ON_DISK: dict[str, Any] = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.layers.3": "cpu",
    "model.norm": "disk",
    "lm_head": "disk",
}


def attention_of(family: str) -> str:
    return "eager" if family == "gemma2" else "sdpa"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_whole_model_equals_transformers(
    family: str, folders: dict[str, Path], plain: Any, ids: Tensor
) -> None:
    loaded = load_model(folders[family], dtype=F32, attention=attention_of(family))
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, plain(folders[family])(ids).logits)
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.config.use_cache
    assert loaded.layers == (0, loaded.config.num_hidden_layers)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_cut_model_equals_the_full_one_at_the_hook(
    family: str, folders: dict[str, Path], plain: Any, ids: Tensor
) -> None:
    cut = load_model(
        folders[family], dtype=F32, layers=(0, 2), head=False, attention=attention_of(family)
    )
    names = ["resid_post.1", "mlp_out.0"]
    wanted, got = capture(plain(folders[family]), names, ids), capture(cut.model, names, ids)
    for name in names:
        assert torch.equal(got[name], wanted[name])
    # Nothing after the last block is there at all.
    held = {name.split(".")[-2] for name, _ in cut.model.named_parameters()}
    assert not held & {"lm_head", "norm", "ln_f", "final_layer_norm"}


def test_without_head_the_stream_comes_out(llama_folder: Path, plain: Any, ids: Tensor) -> None:
    cut = load_model(llama_folder, dtype=F32, layers=(0, 3), head=False)
    stream = capture(plain(llama_folder), ["resid_post.2"], ids)["resid_post.2"]
    with torch.no_grad():
        assert torch.equal(cut.model(ids).logits, stream)


def test_tail_without_embedding_refuses_token_ids(llama_folder: Path, ids: Tensor) -> None:
    tail = load_model(llama_folder, dtype=F32, layers=(2, 4))
    assert "model.embed_tokens.weight" not in dict(tail.model.named_parameters())
    with pytest.raises(ModelError, match="starts at a later block"):
        tail.model(ids)


@pytest.mark.parametrize("layers", [(-1, 2), (2, 2), (3, 2), (0, 5)])
def test_layers_outside_the_model(layers: tuple[int, int], llama_folder: Path) -> None:
    with pytest.raises(ModelError, match="the model has layers 0 to 3"):
        load_model(llama_folder, dtype=F32, layers=layers)


def test_several_shards_and_tied_weights(sharded_folder: Path, plain: Any, ids: Tensor) -> None:
    assert len(list(sharded_folder.glob("*.safetensors"))) > 2
    loaded = load_model(sharded_folder, dtype=F32)
    model: Any = loaded.model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain(sharded_folder)(ids).logits)


def test_tied_tail_keeps_the_embedding_for_its_head(sharded_folder: Path) -> None:
    model: Any = load_model(sharded_folder, dtype=F32, layers=(3, 4)).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_rotary_tables_are_real(llama_folder: Path, plain: Any) -> None:
    loaded = load_model(llama_folder, dtype=torch.bfloat16)
    buffers = dict(loaded.model.named_buffers())
    assert all(buffer.device.type == "cpu" for buffer in buffers.values())
    inv_freq = buffers["model.rotary_emb.inv_freq"]
    # theta^(-2i/d) with theta 10000 and heads of 8 dimensions, kept in float32.
    torch.testing.assert_close(inv_freq, torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_bfloat16_rounds_each_weight_once(llama_folder: Path, plain: Any) -> None:
    loaded = load_model(llama_folder, dtype=torch.bfloat16)
    reference = dict(plain(llama_folder).named_parameters())
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, reference[name].bfloat16())


def test_loaded_weights_do_not_change_with_the_file(
    tmp_path: Path, llama_folder: Path, ids: Tensor
) -> None:
    for file in llama_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = load_model(tmp_path, dtype=F32).model
    with torch.no_grad():
        before = model(ids).logits
        weights = tmp_path / "model.safetensors"
        with weights.open("r+b") as file:
            file.seek(-4096, 2)
            file.write(b"\0" * 4096)
        assert torch.equal(model(ids).logits, before)


def test_cpu_and_disk_equal_the_plain_model(llama_folder: Path, plain: Any, ids: Tensor) -> None:
    loaded = load_model(llama_folder, dtype=F32, device_map=HALF_ON_DISK)
    parameters = dict(loaded.model.named_parameters())
    assert parameters["model.layers.1.mlp.up_proj.weight"].device.type == "meta"
    assert parameters["model.layers.0.mlp.up_proj.weight"].device.type == "cpu"
    assert loaded.hf_device_map["model.layers.2"] == "disk"
    names = [f"{kind}.{layer}" for kind in ("resid_mid", "mlp_in", "resid_post")
             for layer in range(4)]  # fmt: skip
    wanted, got = capture(plain(llama_folder), names, ids), capture(loaded.model, names, ids)
    for name in names:
        torch.testing.assert_close(got[name], wanted[name], rtol=0, atol=1e-6)
    with torch.no_grad():
        wanted_logits = plain(llama_folder)(ids).logits
        for _ in range(2):
            torch.testing.assert_close(loaded.model(ids).logits, wanted_logits, rtol=0, atol=1e-6)
        with spliced(loaded.model, "mlp_out.1", torch.zeros_like):
            got_zero = loaded.model(ids).logits
        with spliced(plain(llama_folder), "mlp_out.1", torch.zeros_like):
            wanted_zero = plain(llama_folder)(ids).logits
    torch.testing.assert_close(got_zero, wanted_zero, rtol=0, atol=1e-6)


def test_stopped_forward_leaves_offloaded_weights_on_disk(llama_folder: Path, ids: Tensor) -> None:
    loaded = load_model(llama_folder, dtype=F32, device_map=HALF_ON_DISK)
    for name in ("model.layers.1.mlp.up_proj", "mlp_in.2", "resid_post.1"):
        capture(loaded.model, [name], ids)
    devices = {p.device.type for n, p in loaded.model.named_parameters() if ".layers.1." in n}
    assert devices == {"meta"}


def test_whole_tied_model_from_disk(sharded_folder: Path, plain: Any, ids: Tensor) -> None:
    loaded = load_model(sharded_folder, dtype=F32, device_map={"": "disk"})
    with torch.no_grad():
        got, wanted = loaded.model(ids).logits, plain(sharded_folder)(ids).logits
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    assert loaded.hf_device_map == {"*": "disk"}


def test_auto_goes_to_disk_only_when_a_folder_is_given(
    tmp_path: Path, llama_folder: Path, plain: Any, ids: Tensor, caplog: Any
) -> None:
    memory = {"cpu": "90KB"}
    with pytest.raises(ModelError, match="does not fit"):
        load_model(llama_folder, dtype=F32, device_map="auto", max_memory=memory)
    with caplog.at_level(logging.WARNING):
        loaded = load_model(
            llama_folder, dtype=F32, device_map="auto", max_memory=memory, offload_folder=tmp_path
        )
    assert "moved for each forward" in caplog.text
    assert set(loaded.hf_device_map.values()) == {"cpu", "disk"}
    # The checkpoint's own file serves, so nothing was copied.
    assert not list(tmp_path.iterdir())
    with torch.no_grad():
        got, wanted = loaded.model(ids).logits, plain(llama_folder)(ids).logits
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_disk_in_another_dtype_is_converted_once(
    tmp_path: Path, llama_folder: Path, ids: Tensor
) -> None:
    with pytest.raises(ModelError, match="Give an offload_folder"):
        load_model(llama_folder, dtype=torch.bfloat16, device_map=HALF_ON_DISK)
    loaded = load_model(
        llama_folder, dtype=torch.bfloat16, device_map=HALF_ON_DISK, offload_folder=tmp_path
    )
    assert (tmp_path / "model.layers.1.mlp.up_proj.weight.safetensors").is_file()
    with torch.no_grad():
        got = loaded.model(ids).logits
        wanted = load_model(llama_folder, dtype=torch.bfloat16).model(ids).logits
    assert torch.equal(got, wanted)


def test_balanced_without_a_gpu_is_the_cpu(llama_folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    loaded = load_model(llama_folder, dtype=F32, device_map="balanced")
    assert loaded.hf_device_map == {"*": "cpu"}
    assert loaded.input_device == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_with_cpu_offload_equals_gpu(llama_folder: Path, ids: Tensor) -> None:
    on_gpu = load_model(llama_folder, dtype=F32)
    mixed: dict[str, Any] = dict.fromkeys(HALF_ON_DISK, 0) | {"model.layers.1": "cpu"}
    shared = load_model(llama_folder, dtype=F32, device_map=mixed)
    assert on_gpu.input_device.type == shared.input_device.type == "cuda"
    inputs = ids.to(on_gpu.input_device)
    for name in ("resid_post.1", "mlp_out.3"):
        got, wanted = (capture(m.model, [name], inputs)[name] for m in (shared, on_gpu))
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_checkpoints_of_the_bare_model(tmp_path: Path, ids: Tensor) -> None:
    """The published GPT-2 names its tensors without the prefix `transformer.`."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1, n_embd=32, n_head=4, vocab_size=128, bos_token_id=1, eos_token_id=2
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    model.transformer.save_pretrained(tmp_path)
    with torch.no_grad():
        got = load_model(tmp_path, dtype=F32).model(ids).logits
        assert torch.equal(got, model(ids).logits)


def test_older_name_of_an_unembedding(tmp_path: Path, neox_folder: Path, ids: Tensor) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(neox_folder / "model.safetensors")
    head = tensors.pop("lm_head.weight", None)
    tensors.setdefault("embed_out.weight", head)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((neox_folder / "config.json").read_bytes())
    with torch.no_grad():
        got = load_model(tmp_path, dtype=F32).model(ids).logits
        assert torch.equal(got, load_model(neox_folder, dtype=F32).model(ids).logits)


def test_folder_errors(tmp_path: Path, llama_folder: Path) -> None:
    with pytest.raises(ModelError, match="is no model folder"):
        load_model("EleutherAI/pythia-70m", dtype=F32)
    config = (llama_folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"llama"', '"no_such_type"'))
    with pytest.raises(ModelError, match="cannot be used"):
        read_config(tmp_path)
    quantised = '{"quantization_config": {"quant_method": "gptq", "bits": 4},'
    (tmp_path / "config.json").write_text(config.replace("{", quantised, 1))
    with pytest.raises(ModelError, match="quantised"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="pickled weights"):
        load_model(tmp_path, dtype=F32)


def test_attention_that_a_family_lacks(gemma_folder: Path) -> None:
    with pytest.raises(ModelError, match="with attention 'sdpa'"):
        load_model(gemma_folder, dtype=F32, attention="sdpa")


def test_config_and_weights_of_different_models(tmp_path: Path, llama_folder: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(llama_folder / "model.safetensors")
    config = LlamaConfig.from_pretrained(llama_folder)
    config.intermediate_size = 48
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"gate_proj.weight is \[64, 32\], wanted \[48, 32\]"):
        load_model(tmp_path, dtype=F32)
    config.intermediate_size = 64
    config.num_hidden_layers = 5
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks 9 tensors .*model\.layers\.4"):
        load_model(tmp_path, dtype=F32)
    # The block that is missing is not needed for the first four.
    assert load_model(tmp_path, dtype=F32, layers=(0, 4)).layers == (0, 4)


def test_families_outside_the_table_load_whole(tmp_path: Path, ids: Tensor) -> None:
    from transformers import OPTConfig

    config = OPTConfig(
        vocab_size=128, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=32, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype=F32)
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, model(ids).logits)
    for options in ({"layers": (0, 1)}, {"head": False}):
        with pytest.raises(ModelError, match="Only a whole model of type 'opt'"):
            load_model(tmp_path, dtype=F32, **options)


def test_tokenizer_is_read_when_asked_for(llama_folder: Path) -> None:
    loaded = load_model(llama_folder, dtype=F32)
    with pytest.raises(ModelError, match="holds no tokenizer"):
        _ = loaded.tokenizer
