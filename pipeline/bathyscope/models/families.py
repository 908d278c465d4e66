"""One table: where each model family keeps its blocks and what stands in them.

A family only adds aliases. A model of no family here works too: its hook points are module paths.
Flows in: a Hugging Face config. Flows out: the `Family` of its `model_type`, or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ALIAS_KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out")
"""Aliases are `<kind>.<layer>`, layers counted from 0."""


@dataclass(frozen=True)
class Family:
    """Module paths of one family; those of a block's parts are relative to the block."""

    blocks: str
    """Path of the list of blocks."""
    attention: str
    """The attention module."""
    attention_out: str
    """Module whose output is added to the residual stream: attention, or the norm after it."""
    mlp: str
    """The MLP module."""
    mlp_norm: str
    """Norm before the MLP; in serial blocks it reads the residual stream after attention."""
    embedding: str
    """Token embedding."""
    final_norm: str
    """Norm after the last block."""
    unembedding: str = "lm_head"
    """Linear map to logits."""
    parallel_setting: str | None = None
    """Config field that is true where attention and MLP read the same input."""
    gain_from_one: bool = False
    """Whether norms store their gain as its difference from 1."""
    checkpoint_names: Mapping[str, str] = field(default_factory=dict)
    """Prefix of a parameter's name -> prefix that older checkpoints use instead."""

    def is_parallel(self, config: Any) -> bool:
        """Whether attention and MLP read the same input, so that nothing lies between them."""
        return self.parallel_setting is not None and bool(getattr(config, self.parallel_setting))

    def part(self, kind: str, layer: int) -> tuple[str, str]:
        """Module path and side (`in` or `out`) of the alias `<kind>.<layer>`."""
        block = f"{self.blocks}.{layer}"
        return {
            "resid_pre": (block, "in"),
            "resid_mid": (f"{block}.{self.mlp_norm}", "in"),
            "resid_post": (block, "out"),
            "attn_out": (f"{block}.{self.attention_out}", "out"),
            "mlp_in": (f"{block}.{self.mlp}", "in"),
            "mlp_out": (f"{block}.{self.mlp}", "out"),
        }[kind]


_LLAMA = Family(
    blocks="model.layers",
    attention="self_attn",
    attention_out="self_attn",
    mlp="mlp",
    mlp_norm="post_attention_layernorm",
    embedding="model.embed_tokens",
    final_norm="model.norm",
)

_GEMMA = Family(
    blocks="model.layers",
    attention="self_attn",
    attention_out="post_attention_layernorm",
    mlp="mlp",
    mlp_norm="pre_feedforward_layernorm",
    embedding="model.embed_tokens",
    final_norm="model.norm",
    gain_from_one=True,
)

_GPT2 = Family(
    blocks="transformer.h",
    attention="attn",
    attention_out="attn",
    mlp="mlp",
    mlp_norm="ln_2",
    embedding="transformer.wte",
    final_norm="transformer.ln_f",
)

_GPT_NEOX = Family(
    blocks="gpt_neox.layers",
    attention="attention",
    attention_out="attention",
    mlp="mlp",
    mlp_norm="post_attention_layernorm",
    embedding="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    parallel_setting="use_parallel_residual",
    checkpoint_names={"lm_head.": "embed_out."},
)

FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
}
"""Hugging Face `model_type` -> family."""


def family_of(config: Any) -> Family | None:
    """The family of a config's `model_type`, or none where its paths are unknown."""
    return FAMILIES.get(getattr(config, "model_type", None) or "")
