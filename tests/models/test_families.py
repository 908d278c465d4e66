"""Every family of the table against the plain model: what each alias means, and what is loaded.

A small model with random weights of every family is saved as users have it, loaded with our loader
as far as a hook point needs, and compared with transformers' own hidden states; the parts between
are compared with each other: what attention and MLP add makes the next stream.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from bathyscope.errors import HookPointError
from bathyscope.models.build import build_model
from bathyscope.models.capture import capture
from bathyscope.models.families import ALIAS_KINDS, FAMILIES, family_of
from bathyscope.models.hook_points import layers_needed, resolve
from bathyscope.models.load import load_model

LAYERS = 3
_SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
}  # fmt: skip
_TOKENS: dict[str, Any] = {
    "vocab_size": 128, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
_LM = _SIZES | _TOKENS
_GQA = _LM | {"num_key_value_heads": 2}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2}
_GPT: dict[str, Any] = {"n_layer": LAYERS, "n_embd": 32, "n_head": 4, "n_positions": 64}
_IDS = {k: v for k, v in _TOKENS.items() if k != "max_position_embeddings"}
_IMAGE = _SIZES | {"image_size": 16, "patch_size": 8}

CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertConfig(**_LM),
    "clip_vision_model": lambda: hf.CLIPVisionConfig(**_IMAGE),
    "dinov2": lambda: hf.Dinov2Config(
        **{**_SIZES, "intermediate_size": None}, image_size=28, patch_size=14, mlp_ratio=2,
        layerscale_value=0.5,
    ),
    "gemma": lambda: hf.GemmaConfig(**_GQA, head_dim=8),
    "gemma2": lambda: hf.Gemma2Config(
        **_GQA, head_dim=8, sliding_window=4, query_pre_attn_scalar=8
    ),
    "gemma3_text": lambda: hf.Gemma3TextConfig(
        **_GQA, head_dim=8, sliding_window=4, query_pre_attn_scalar=8
    ),
    "gpt2": lambda: hf.GPT2Config(**_GPT, **_IDS),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_LM),
    "gpt_neox serial": lambda: hf.GPTNeoXConfig(**_LM, use_parallel_residual=False),
    "gptj": lambda: hf.GPTJConfig(**_GPT, **_IDS, rotary_dim=4),
    "llama": lambda: hf.LlamaConfig(**_GQA),
    "mamba": lambda: hf.MambaConfig(
        hidden_size=32, num_hidden_layers=LAYERS, state_size=4, **_IDS
    ),
    "mistral": lambda: hf.MistralConfig(**_GQA),
    "mixtral": lambda: hf.MixtralConfig(**_GQA, num_local_experts=4),
    "olmoe": lambda: hf.OlmoeConfig(**_GQA, **_EXPERTS),
    "phi": lambda: hf.PhiConfig(**_LM),
    "phi3": lambda: hf.Phi3Config(**_GQA),
    "qwen2": lambda: hf.Qwen2Config(**_GQA),
    "qwen3": lambda: hf.Qwen3Config(**_GQA, head_dim=8),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(
        **_GQA, **_EXPERTS, head_dim=8, moe_intermediate_size=16
    ),
    "vit": lambda: hf.ViTConfig(**_IMAGE),
}  # fmt: skip
# These have no sdpa kernel in transformers.
EAGER = ("gemma2", "gptj")
# transformers maps their weights at other addresses, and the last bits depend on alignment.
ROUNDED = ("gptj", "mamba")
EXPERTS = ("mixtral", "olmoe", "qwen3_moe")
DENSE = [name for name in CONFIGS if name not in EXPERTS]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives the folder of a random model of a family."""

    @functools.cache
    def save(name: str) -> Path:
        torch.manual_seed(0)
        model: Any = build_model(CONFIGS[name](), dtype=torch.float32, attention="eager")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        folder = tmp_path_factory.mktemp(name.replace(" ", "_"))
        model.save_pretrained(folder, max_shard_size="30KB")
        return folder

    return save


@functools.cache
def plain(folder: Path) -> Any:
    """The model as transformers itself loads it."""
    config = hf.AutoConfig.from_pretrained(folder)
    family = FAMILIES[config.model_type]
    settings = {} if family.mixer else {"attn_implementation": attention(config.model_type)}
    auto = getattr(hf, family.auto_class)
    model: Any = auto.from_pretrained(folder, dtype=torch.float32, **settings)
    return model.eval()


def attention(name: str) -> str:
    return "eager" if name in EAGER else "sdpa"


def inputs_of(config: Any) -> dict[str, Tensor]:
    """Two items: nine tokens each, or one image each."""
    generator = torch.Generator().manual_seed(1)
    if FAMILIES[config.model_type].reads_images:
        size = config.image_size
        return {"pixel_values": torch.randn(2, 3, size, size, generator=generator)}
    return {"input_ids": torch.randint(3, 128, (2, 9), generator=generator)}


def aliases(config: Any, layers: range) -> list[str]:
    """All aliases that exist in these blocks."""
    family = FAMILIES[config.model_type]
    return [
        f"{kind}.{layer}"
        for layer in layers
        for kind in ALIAS_KINDS
        if family.why_not(kind, layer, config) is None
    ]


def test_every_family_of_the_table_is_tried() -> None:
    assert {name.split()[0] for name in CONFIGS} == set(FAMILIES)


@pytest.mark.parametrize("name", CONFIGS)
def test_streams_are_the_hidden_states_of_the_plain_model(
    name: str, saved: Callable[[str], Path]
) -> None:
    model = plain(saved(name))
    inputs = inputs_of(model.config)
    with torch.no_grad():
        wanted = model(**inputs, output_hidden_states=True).hidden_states
        if name == "mamba":
            # Its list begins after the first block.
            wanted = (model.backbone.embeddings(inputs["input_ids"]), *wanted)
    loaded = load_model(saved(name), attention=attention(name), dtype=torch.float32)
    # The last of the plain hidden states may have gone through the final norm.
    points = [f"resid_post.{layer}" for layer in range(LAYERS - 1)]
    seen = capture(loaded.model, ["resid_pre.0", *points], inputs)
    near = {"rtol": 1e-5, "atol": 1e-6} if name in ROUNDED else {"rtol": 0.0, "atol": 0.0}
    for tensor, state in zip(seen.values(), wanted, strict=False):
        torch.testing.assert_close(tensor, state, **near)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_added_makes_the_next_stream(name: str, saved: Callable[[str], Path]) -> None:
    loaded = load_model(saved(name), attention=attention(name), dtype=torch.float32)
    config, model = loaded.config, loaded.model
    family = FAMILIES[config.model_type]
    seen = capture(model, aliases(config, range(LAYERS)), inputs_of(config))
    for layer in range(LAYERS):
        block = model.get_submodule(f"{family.blocks}.{layer}")
        at = {kind: seen.get(f"{kind}.{layer}") for kind in ALIAS_KINDS}
        if family.mixer:
            assert layer == 0 or torch.equal(at["resid_pre"], seen[f"resid_post.{layer - 1}"])
            continue
        middle, end = rebuilt(name, block, at)
        if at["resid_mid"] is not None:
            torch.testing.assert_close(middle, at["resid_mid"])
            torch.testing.assert_close(mlp_input(name, block, at["resid_mid"]), at["mlp_in"])
        torch.testing.assert_close(end, at["resid_post"])


def rebuilt(name: str, block: Any, at: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The stream after attention and after the block, from what is added: each family's sums."""
    pre, attn, mlp = at["resid_pre"], at["attn_out"], at["mlp_out"]
    if name == "bert":
        middle = block.attention.output.LayerNorm(pre + attn)
        return middle, block.output.LayerNorm(middle + mlp)
    if name in ("gemma2", "gemma3_text"):
        mlp = block.post_feedforward_layernorm(mlp)
    if name == "dinov2":
        mlp = block.layer_scale2(mlp)
    middle = pre + attn
    return middle, middle + mlp


def mlp_input(name: str, block: Any, middle: Tensor) -> Tensor:
    """What the MLP receives: the stream after norm and gain; BERT's stream is normed already."""
    norm = FAMILIES[name.split()[0]].mlp_norm
    normed: Tensor = middle if name == "bert" else block.get_submodule(norm)(middle)
    return normed


@pytest.mark.parametrize("name", ["gpt_neox", "gptj", "phi"])
def test_parallel_blocks_have_no_middle(name: str, saved: Callable[[str], Path]) -> None:
    config = hf.AutoConfig.from_pretrained(saved(name))
    with pytest.raises(HookPointError, match="in parallel on the same input"):
        resolve(config, "resid_mid.1")


@pytest.mark.parametrize("kind", ["resid_mid", "attn_out", "mlp_in", "mlp_out"])
def test_blocks_of_one_mixer_have_streams_only(kind: str, saved: Callable[[str], Path]) -> None:
    config = hf.AutoConfig.from_pretrained(saved("mamba"))
    with pytest.raises(HookPointError, match=r"one mixer.*'backbone\.layers\.1\.mixer'"):
        resolve(config, f"{kind}.1")


def test_what_a_mixer_adds_is_found_by_its_path(saved: Callable[[str], Path]) -> None:
    loaded = load_model(saved("mamba"), attention=attention("mamba"), dtype=torch.float32)
    seen = capture(
        loaded.model,
        ["resid_pre.1", "backbone.layers.1.mixer", "resid_post.1"],
        inputs_of(loaded.config),
    )
    before, added, after = seen.values()
    torch.testing.assert_close(before + added, after)


@pytest.mark.parametrize("name", CONFIGS)
def test_only_the_layers_that_are_needed_are_loaded(
    name: str, saved: Callable[[str], Path]
) -> None:
    whole = load_model(saved(name), attention=attention(name), dtype=torch.float32)
    points = [resolve(whole.config, alias) for alias in aliases(whole.config, range(1, 2))]
    layers = layers_needed(points)
    assert layers == (0, 2)
    cut = load_model(
        saved(name), attention=attention(name), dtype=torch.float32, layers=layers, head=False
    )
    blocks: nn.Module = cut.model.get_submodule(FAMILIES[whole.config.model_type].blocks)
    assert [int(n) for n, _ in blocks.named_children()] == [0, 1]
    inputs = inputs_of(whole.config)
    found = capture(cut.model, points, inputs)
    for alias, tensor in capture(whole.model, points, inputs).items():
        assert torch.equal(found[alias], tensor), alias


@pytest.mark.parametrize("name", DENSE)
def test_parts_on_the_cpu_and_on_disk_give_the_same(
    name: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = load_model(saved(name), attention=attention(name), dtype=torch.float32)
    family = family_of(whole.config)
    assert family is not None
    device_map = dict.fromkeys(_leaves(whole.model, family.blocks), "cpu")
    device_map |= {f"{family.blocks}.{layer}": "disk" for layer in range(1, LAYERS)}
    device_map[f"{family.blocks}.0"] = "cpu"
    sharded = load_model(
        saved(name),
        attention=attention(name),
        dtype=torch.float32,
        device_map=device_map,
        offload_folder=tmp_path,
    )
    assert "disk" in sharded.hf_device_map.values()
    points, inputs = aliases(whole.config, range(LAYERS)), inputs_of(whole.config)
    found = capture(sharded.model, points, inputs)
    for alias, tensor in capture(whole.model, points, inputs).items():
        assert torch.equal(found[alias], tensor), alias


def _leaves(model: nn.Module, blocks: str) -> list[str]:
    """The largest modules, and parameters beside them, that hold no block."""
    found = []
    for name, module in model.named_modules():
        if not name or name == blocks or blocks.startswith(f"{name}."):
            found += [f"{name}.{p}".lstrip(".") for p, _ in module.named_parameters(recurse=False)]
            found += [f"{name}.{p}".lstrip(".") for p, _ in module.named_buffers(recurse=False)]
            found += [
                f"{name}.{child}".lstrip(".")
                for child, _ in module.named_children()
                if not blocks.startswith(f"{name}.{child}".lstrip("."))
            ]
    return [n for n in found if not n.startswith(f"{blocks}.")]
