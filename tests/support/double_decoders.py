"""Tiny random decoders of every family, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

from bathyscope.models.build import build_model

_SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "vocab_size": 64, "max_position_embeddings": 16,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_GQA = _SIZES | {"num_key_value_heads": 2}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2}
_GPT: dict[str, Any] = {
    "n_layer": 3, "n_embd": 32, "n_head": 4, "n_positions": 16, "vocab_size": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_GEMMA: dict[str, Any] = {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gemma": lambda: hf.GemmaConfig(**_GQA, head_dim=8),
    "gemma2": lambda: hf.Gemma2Config(**_GQA, **_GEMMA, attn_logit_softcapping=2.0),
    "gemma3_text": lambda: hf.Gemma3TextConfig(**_GQA, **_GEMMA),
    "gpt2": lambda: hf.GPT2Config(**_GPT, scale_attn_by_inverse_layer_idx=True),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_SIZES),
    "gpt_neox serial": lambda: hf.GPTNeoXConfig(**_SIZES, use_parallel_residual=False),
    "gptj": lambda: hf.GPTJConfig(**_GPT, rotary_dim=4),
    "llama": lambda: hf.LlamaConfig(**_GQA),
    "mistral": lambda: hf.MistralConfig(**_GQA, sliding_window=4),
    "mixtral": lambda: hf.MixtralConfig(**_GQA, num_local_experts=4),
    "olmoe": lambda: hf.OlmoeConfig(**_GQA, **_EXPERTS),
    "phi": lambda: hf.PhiConfig(**_SIZES),
    "phi3": lambda: hf.Phi3Config(**_GQA),
    "qwen2": lambda: hf.Qwen2Config(**_GQA),
    "qwen3": lambda: hf.Qwen3Config(**_GQA, head_dim=8),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(
        **_GQA, **_EXPERTS, head_dim=8, moe_intermediate_size=16
    ),
}  # fmt: skip


DECODERS = tuple(CONFIGS)


@functools.cache
def make_model(name: str, attention: str = "eager") -> Any:
    """A model whose every parameter matters; the same one each time, so nobody may change it."""
    torch.manual_seed(0)
    model: Any = build_model(CONFIGS[name](), dtype=torch.float64, attention=attention)
    # The grouped kernels of experts do not take float64.
    model.config._experts_implementation = "eager"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model.eval()
