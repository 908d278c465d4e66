"""Tiny random decoders of every family in the alias table, and dictionaries that fit them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers as hf
from torch import nn

from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.models.build import build_model

LAYERS, WIDTH, HEADS, CONTEXT = 3, 32, 4, 64
_TOKENS: dict[str, Any] = {
    "vocab_size": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_LM: dict[str, Any] = _TOKENS | {
    "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "max_position_embeddings": CONTEXT,
}  # fmt: skip
_GQA = _LM | {"num_key_value_heads": 2}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2}
_GPT: dict[str, Any] = _TOKENS | {
    "n_layer": LAYERS, "n_embd": WIDTH, "n_head": HEADS, "n_positions": CONTEXT
}  # fmt: skip
_WINDOW: dict[str, Any] = {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}

DECODERS: dict[str, Callable[[], Any]] = {
    "gemma": lambda: hf.GemmaConfig(**_GQA, head_dim=8),
    "gemma2": lambda: hf.Gemma2Config(**_GQA, **_WINDOW),
    "gemma3_text": lambda: hf.Gemma3TextConfig(**_GQA, **_WINDOW),
    "gpt2": lambda: hf.GPT2Config(**_GPT),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_LM),
    "gpt_neox serial": lambda: hf.GPTNeoXConfig(**_LM, use_parallel_residual=False),
    "gptj": lambda: hf.GPTJConfig(**_GPT, rotary_dim=4),
    "llama": lambda: hf.LlamaConfig(**_GQA),
    "mistral": lambda: hf.MistralConfig(**_GQA, sliding_window=5),
    "mixtral": lambda: hf.MixtralConfig(**_GQA, num_local_experts=4),
    "olmoe": lambda: hf.OlmoeConfig(**_GQA, **_EXPERTS),
    "phi": lambda: hf.PhiConfig(**_LM),
    "phi3": lambda: hf.Phi3Config(**_GQA),
    "qwen2": lambda: hf.Qwen2Config(**_GQA),
    "qwen3": lambda: hf.Qwen3Config(**_GQA, head_dim=8),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(
        **_GQA, **_EXPERTS, head_dim=8, moe_intermediate_size=16
    ),
}
"""Every decoder with attention; Mamba has none."""


@functools.cache
def decoder(name: str) -> Any:
    """A random model of a family whose every parameter matters. For reading only."""
    return random_model(DECODERS[name]())


def random_model(config: Any) -> Any:
    """A random model of a config, with gains and biases that are not what they start as."""
    torch.manual_seed(0)
    model: Any = build_model(config, dtype=torch.float32, attention="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def random_dictionary(
    kind: str,
    inputs: Sequence[str],
    outputs: Sequence[str] | None = None,
    *,
    width: int = WIDTH,
    num_latents: int = 24,
    activation: str = "topk",
    dtype: torch.dtype = torch.float32,
) -> AnyDictionary:
    """A dictionary with random weights and 4 active latents per row, of a layer for a CLT."""
    read = columns_of([(name, width) for name in inputs])
    write = read if outputs is None else columns_of([(name, width) for name in outputs])
    made = make_dictionary(
        kind, read, write, activation=activation, k=4, num_latents=num_latents, dtype=dtype
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype) / 4)
    dictionary: nn.Module = made.eval().requires_grad_(False)
    return dictionary  # type: ignore[return-value]
